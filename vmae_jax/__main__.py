"""Lists the verbs: python -m vmae_jax."""

import ast
from pathlib import Path


def main() -> None:
  folder = Path(__file__).parent
  files = {path.stem: path for path in folder.glob('*.py')}
  files |= {path.parent.name: path for path in folder.glob('*/__main__.py')}
  print('For more about one: python -m vmae_jax.VERB --help\n')
  for verb, path in sorted(files.items()):
    text = path.read_text(encoding='utf-8')
    if "if __name__ == '__main__':\n  cli.run(" in text:
      print(f'  {verb:<16} {ast.get_docstring(ast.parse(text)).splitlines()[0]}')


if __name__ == '__main__':
  main()
