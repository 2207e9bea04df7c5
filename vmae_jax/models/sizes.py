"""The table of model sizes."""

# width, depth, heads and hidden units of the encoder, then of the decoder.
# S, B, L, H: VideoMAE's models and the decoder depths of its pre-training scripts.
# giant: VideoMAE V2 (use it with model.patch = (2, 14, 14)), whose decoder has its encoder's
#   ratio, too: int(512 * 48 / 11) hidden units.
# tiny and demo are ours, for tests, laptops and the demo.
SIZES = {
  'demo': dict(
    width=128, depth=4, heads=4, mlp=512, decoder=dict(width=128, depth=2, heads=4, mlp=512)
  ),
  'tiny': dict(
    width=192, depth=12, heads=3, mlp=768, decoder=dict(width=96, depth=4, heads=3, mlp=384)
  ),
  's': dict(
    width=384, depth=12, heads=6, mlp=1536, decoder=dict(width=192, depth=4, heads=3, mlp=768)
  ),
  'b': dict(
    width=768, depth=12, heads=12, mlp=3072, decoder=dict(width=384, depth=4, heads=6, mlp=1536)
  ),
  'l': dict(
    width=1024, depth=24, heads=16, mlp=4096, decoder=dict(width=512, depth=12, heads=8, mlp=2048)
  ),
  'h': dict(
    width=1280, depth=32, heads=16, mlp=5120, decoder=dict(width=640, depth=12, heads=8, mlp=2560)
  ),
  'giant': dict(
    width=1408, depth=40, heads=16, mlp=6144, decoder=dict(width=512, depth=4, heads=8, mlp=2234)
  ),
}
