"""The names of axes of all arrays in the package.

Capitals are pixels, small letters tokens:

  b        clips in a batch (over all devices)
  T H W C  frames, height, width and channels of a clip, C last
  t h w    the token grid: T, H and W over the patch's size in each
  n        all tokens of a clip, n = t * h * w, index (t * h + y) * w + x
  k        visible tokens, those that the encoder sees
  m        masked tokens, those whose content is predicted
  p        values of one patch, flattened (p_t, p_h, p_w, C), channel last
  d        width of a token
  g e      heads of attention and the width of one head
  c        classes
  r        clips cut from one decoded video ("repeats")
  s        samples of a data set
  q        pairs of frames, or any other list

uint8 video is RGB in [0, 255]; float video is RGB in [0, 1] unless it is called normalised.
A boolean mask is True where a token is hidden.
"""

from jaxtyping import Array, Bool, Float, Int, Int32, Key, Num, UInt8, UInt32

__all__ = ['Array', 'Bool', 'Float', 'Int', 'Int32', 'Key', 'Num', 'UInt8', 'UInt32']
