"""Converts a PyTorch checkpoint of a frozen network to a file of this package.

  python -m vmae_jax.convert SOURCE --out=FILE

SOURCE is a .safetensors, .pth, .pt or .ckpt file; the last three need PyTorch. What it holds is
known by the names of its tensors:
  vqgan   a VQGAN of taming-transformers (VQModel or GumbelVQ), for targets that are codes
  raft    RAFT, small or large, of torchvision or princeton-vl, for optical flow
"""

from absl import flags

from vmae_jax import cli
from vmae_jax.errors import UserError
from vmae_jax.interchange.convert import convert

_OUT = flags.DEFINE_string('out', None, 'The file to write, FILE.safetensors.')
_KIND = flags.DEFINE_string('kind', '', 'What SOURCE holds, if its names do not tell.')


def main(argv: list[str]) -> None:
  if len(argv) != 2 or not _OUT.value:
    raise UserError('give one checkpoint and the file to write: SOURCE --out=FILE.safetensors.')
  print(convert(argv[1], _OUT.value, kind=_KIND.value))


if __name__ == '__main__':
  cli.run(main)
