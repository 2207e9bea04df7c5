"""Runs notebooks from top to bottom and stores what they show, for readers on the web.

  python -m tests.colabs.store NAME... --folder=DIR

In DIR they find and leave their runs: what is there is not done again.
"""

import argparse
import base64
import io
import itertools
import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image, ImageSequence

COLABS = Path(__file__).parents[2] / 'colabs'
LARGEST = 200_000  # Bytes of a picture.


def read(name):
  return nbformat.read(COLABS / f'{name}.ipynb', as_version=4)


def strip(notebook):
  """The notebook without outputs."""
  for cell in notebook.cells:
    if cell.cell_type == 'code':
      cell.outputs = []
  return notebook


def execute(notebook, folder):
  """Runs all cells, in a kernel of its own that works in `folder`."""
  resources = {'metadata': {'path': str(folder)}}
  NotebookClient(notebook, timeout=None, kernel_name='python3', resources=resources).execute()


def shown(cell):
  """What a reader sees below a cell: text that was printed, pictures and tables, in this order."""
  outputs = []
  for output in cell.get('outputs', []):
    if output.output_type != 'stream':
      outputs.append(nbformat.v4.new_output('display_data', data=output.data))
    elif output.name == 'stdout' and outputs and outputs[-1].output_type == 'stream':
      outputs[-1].text += output.text
    elif output.name == 'stdout':
      outputs.append(nbformat.v4.new_output('stream', text=output.text))
  return outputs


def kinds(notebook):
  """Cell -> what kinds of outputs it has."""
  return {
    cell.id: [sorted(output.get('data', {})) or ['text'] for output in shown(cell)]
    for cell in notebook.cells
    if cell.cell_type == 'code'
  }


def pictures(notebook):
  """The bytes of all pictures."""
  return [
    base64.b64decode(data)
    for cell in notebook.cells
    for output in cell.get('outputs', [])
    for mime, data in output.get('data', {}).items()
    if mime.startswith('image/')
  ]


def smaller(data):
  """The picture or film in so many bytes: of fewer colours, then of fewer frames."""
  with Image.open(io.BytesIO(data)) as image:
    kind, duration = image.format, image.info.get('duration', 0)
    frames = [frame.convert('RGB') for frame in ImageSequence.Iterator(image)]
  for step, colours in itertools.product((1, 2, 4), (256, 128, 64, 32)):
    if len(data) < LARGEST:
      break
    whole = Image.new('RGB', (frames[0].width, frames[0].height * len(frames[::step])))
    for i, frame in enumerate(frames[::step]):
      whole.paste(frame, (0, i * frame.height))
    palette = whole.quantize(colours)  # One for all frames.
    few = [f.quantize(palette=palette, dither=Image.Dither.NONE) for f in frames[::step]]
    options = dict(save_all=True, append_images=few[1:], duration=duration * step, loop=0)
    few[0].save(file := io.BytesIO(), kind, **(options if kind == 'GIF' else {}), optimize=True)
    data = file.getvalue()
  return data


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('names', nargs='+')
  parser.add_argument('--folder', default='runs/colabs')
  given = parser.parse_args()
  os.makedirs(given.folder, exist_ok=True)
  os.environ['PYTHONPATH'] = os.pathsep.join([str(COLABS.parent), os.environ.get('PYTHONPATH', '')])
  for name in given.names:
    execute(notebook := strip(read(name)), given.folder)
    for cell in notebook.cells:
      cell.metadata.pop('execution', None)
      if cell.cell_type == 'code':
        cell.outputs, cell.execution_count = shown(cell), None
        for output in cell.outputs:
          if 'text' in output:  # Without the place of the checkout.
            output.text = output.text.replace(f'{Path(given.folder).resolve().parent}/', '../')
        for data in (output.get('data', {}) for output in cell.outputs):
          if 'image/png' in data:
            picture = smaller(base64.b64decode(data['image/png']))
            data['image/png'] = base64.b64encode(picture).decode()
    notebook.metadata.pop('language_info', None)
    notebook.metadata.language_info = {'name': 'python'}
    nbformat.write(notebook, COLABS / f'{name}.ipynb')


if __name__ == '__main__':
  main()
