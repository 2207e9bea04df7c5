"""Converts checkpoints between this package and PyTorch, and checks that both compute the same.

  python -m vmae_jax.convert SOURCE --to=FORMAT --out=DIR_OR_FILE

SOURCE is one of
  a run of vmae_jax or one of its checkpoints
  a folder of transformers with a VideoMAE: pre-training, classification or the encoder alone
  a .pth or .safetensors file, or a DeepSpeed folder, of VideoMAE, VideoMAE V2, MGMAE or MME
  hf:OWNER/NAME or hf:OWNER/NAME/FILE.pth: any of these on the Hugging Face Hub
  RAFT of torchvision or princeton-vl (optical flow), or a VQGAN of taming-transformers (target
    codes): these become FILE.safetensors of vmae_jax, without --to
The kind is recognised from the names of the tensors. .pth files are read without PyTorch and
without running code from them.

FORMAT is one of
  orbax         a folder that --config.init_from=DIR takes
  huggingface   a folder that from_pretrained of transformers takes, with a model card
  videomae      FILE.pth (needs PyTorch) or FILE.safetensors with the official names, and FILE.md

  python -m vmae_jax.convert RUN --push=OWNER/NAME [--private]

writes a folder for transformers and uploads it to the Hub. An existing model card is kept.

Parts that a format cannot hold (further heads and decoders, a regressor) are written to a file
beside it and read back from there. If PyTorch or transformers is installed, both models run on a
fixed clip; a difference above 1e-4 is an error.
"""

import tempfile

from absl import flags

from vmae_jax import cli
from vmae_jax.errors import UserError

_OUT = flags.DEFINE_string('out', None, 'The folder or file to write.')
_TO = flags.DEFINE_string('to', '', 'orbax, huggingface or videomae; nothing for RAFT and VQGAN.')
_KIND = flags.DEFINE_string('kind', '', 'Kind of SOURCE, if the names of its tensors do not tell.')
_PART = flags.DEFINE_string('part', 'all', 'all, or encoder: the encoder alone.')
_WEIGHTS = flags.DEFINE_string(
  'weights',
  '',
  'params or ema; by default the moving average of a run where there is one, and the last weights '
  'of a file of others.',
)
_HEADS = flags.DEFINE_integer(
  'heads', None, "Heads of the encoder's attention, where SOURCE does not tell or is wrong."
)
_DECODER_HEADS = flags.DEFINE_integer('decoder_heads', None, 'The same for the decoder.')

_PUSH = flags.DEFINE_string(
  'push', '', 'OWNER/NAME: uploads the folder of transformers to the Hugging Face Hub.'
)
_PRIVATE = flags.DEFINE_bool('private', False, 'Whether a repository that --push makes is private.')


def main(argv: list[str]) -> None:
  repository, to = _PUSH.value, _TO.value
  if len(argv) != 2 or not (_OUT.value or repository):
    raise UserError('give one checkpoint and what to write: SOURCE --to=FORMAT --out=DIR_OR_FILE.')
  from vmae_jax import hub  # Not above: --help needs none of it.
  from vmae_jax.interchange.convert import convert

  if repository:
    if (to or 'huggingface') != 'huggingface':
      raise UserError(f'--push uploads a folder of transformers, not --to={to}: drop --to.')
    hub.check_push(repository)
    to = 'huggingface'
  source = hub.local_path(argv[1])
  options = cli.values(_KIND, _PART, _WEIGHTS, _HEADS, _DECODER_HEADS)
  with tempfile.TemporaryDirectory() as scratch:
    out = cli.here(_OUT.value or f'{scratch}/{repository.split("/")[-1]}')
    print(convert(source, out, to=to, **options))
    if repository:
      print(hub.push(out, repository, private=_PRIVATE.value))


if __name__ == '__main__':
  cli.run(main)
