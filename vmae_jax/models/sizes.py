"""The table of model sizes."""

# s, b, l, h: VideoMAE's models, with the decoder depths of its pre-training scripts.
# giant: VideoMAE V2 (with model.patch = (2, 14, 14)); its decoder has the encoder's MLP ratio, too:
#   int(512 * 48 / 11) hidden units.
# tiny and demo are ours, for tests, laptops and the demo.
_NAMES = ('width', 'depth', 'heads', 'mlp')
_TABLE = {  # Of the encoder, then of the decoder.
  'demo': ((128, 4, 4, 512), (128, 2, 4, 512)),
  'tiny': ((192, 12, 3, 768), (96, 4, 3, 384)),
  's': ((384, 12, 6, 1536), (192, 4, 3, 768)),
  'b': ((768, 12, 12, 3072), (384, 4, 6, 1536)),
  'l': ((1024, 24, 16, 4096), (512, 12, 8, 2048)),
  'h': ((1280, 32, 16, 5120), (640, 12, 8, 2560)),
  'giant': ((1408, 40, 16, 6144), (512, 4, 8, 2234)),
}
# Size -> width, depth, heads and mlp (hidden units) of the encoder, and `decoder`: its own.
SIZES = {
  size: dict(zip(_NAMES, encoder, strict=True), decoder=dict(zip(_NAMES, decoder, strict=True)))
  for size, (encoder, decoder) in _TABLE.items()
}
