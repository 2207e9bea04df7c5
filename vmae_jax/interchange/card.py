"""The model card that lies beside exported weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAPERS = {
  'videomae': 'https://arxiv.org/abs/2203.12602',
  'motionmae': 'https://arxiv.org/abs/2210.04154',
  'mam2': 'https://arxiv.org/abs/2210.05234',
  'mme': 'https://arxiv.org/abs/2210.06096',
  'mgmae': 'https://arxiv.org/abs/2308.10794',
}
MODELS = {
  'pretraining': 'VideoMAEForPreTraining',
  'classification': 'VideoMAEForVideoClassification',
  'encoder': 'VideoMAEModel',
}

_CARD = """---
library_name: {library}
pipeline_tag: {task}
tags: [video, masked-autoencoder, {method}]
---
# {title}

{what}

| | |
|---|---|
{rows}

Every LayerNorm has eps {eps:g}. Positions are sines and cosines that follow from the clip's size;
none are stored. Input: RGB in [0, 1], minus {mean}, divided by {std}.

## Loading

{loading}
Made by vmae_jax.
"""

_TRANSFORMERS = """With transformers (4.40 and 5.23 are right; early releases 5 lose the biases of
queries and values without a word):

```python
import torch
from transformers import {model}

folder = '.'  # Where this card lies.
model = {model}.from_pretrained(folder).eval()
{eps}video = torch.zeros(1, {frames}, {channels}, {size}, {size})  # A normalised clip.
with torch.no_grad():
{call}
```

"""
_CALLS = {
  'pretraining': """  tokens = (model.config.num_frames // model.config.tubelet_size) * (
    model.config.image_size // model.config.patch_size
  ) ** 2
  hidden = torch.arange(tokens)[None] % 10 > 0  # True where a token is not shown.
  features = model.videomae(video).last_hidden_state  # Of all tokens.
  pixels = model(video, bool_masked_pos=hidden).logits  # Patches of the hidden ones.""",
  'classification': '  logits = model(video).logits',
  'encoder': '  features = model(video).last_hidden_state',
}
# The one LayerNorm whose eps transformers does not take from config.json.
_LAST_NORM = {'pretraining': 'model.decoder.norm', 'classification': 'model.fc_norm'}
_PLAIN = """<details><summary>With PyTorch alone</summary>

```python
{code}


{load}
video = torch.zeros(1, {channels}, {frames}, {size}, {size})  # A normalised clip.
with torch.no_grad():
{call}
```

</details>

"""


def model_card(info: Mapping[str, Any], *, file: str, rest: list[str]) -> str:
  """Markdown: method, data, steps, metrics, and how to load the weights.

  Args:
    info: As `load_pretrained` and `load_run` say.
    file: Name of the file of weights beside the card.
    rest: Parameters that lie in a side file.
  """
  huggingface = file == 'model.safetensors'
  kind, method = info['kind'], info['method']
  holds = {'pretraining': 'encoder and decoder', 'encoder': 'encoder'}
  rows = {
    'method': f'[{method}]({PAPERS[method]})' if method in PAPERS else method,
    'holds': holds.get(kind, f'classifier of {info["classes"]} classes'),
    'encoder': _sizes(info['encoder']),
    'decoder': _sizes(info['decoder']) if info['decoder'] else '',
    'input': f'{info["frames"]} frames of {info["size"]} x {info["size"]}, patches of '
    + ' x '.join(map(str, info['patch'])),
    **_training(info),
    **_metrics(info.get('results', {})),
  }
  if rest:
    parts = ', '.join(sorted({path.split('/')[0] for path in rest}))
    rows['in the side file'] = f'{len(rest)} parameters of {parts}, for vmae_jax alone'
  what = 'A video transformer pre-trained by masked autoencoding'
  return _CARD.format(
    library='transformers' if huggingface else 'pytorch',
    task='video-classification' if kind == 'classification' else 'feature-extraction',
    method=method,
    title=f'{method}, width {info["encoder"]["width"]}, depth {info["encoder"]["depth"]}',
    what=f'{what} and fine-tuned.' if kind == 'classification' else f'{what}.',
    rows='\n'.join(f'| {name} | {value} |' for name, value in rows.items() if value != ''),
    loading=_loading(info, file, huggingface),
    eps=info['eps'],
    mean=list(info['mean']),
    std=list(info['std']),
  )


def _training(info: Mapping[str, Any]) -> dict[str, Any]:
  """Rows on how it was trained, as far as that is known."""
  config = info['config'] or {}
  data, masking = config.get('data', {}), config.get('masking', {})
  return {
    'started from': config.get('init_from', ''),
    'training data': data.get('train', ''),
    'frame stride': data.get('stride', ''),
    'steps': info.get('step', ''),
    'clips in a step': config.get('batch_size', ''),
    'masking': f'{masking["name"]}, ratio {masking["ratio"]}' if masking else '',
  }


def _metrics(results: Mapping[str, Any]) -> dict[str, Any]:
  """Rows on what came of it: numbers from the files that a run leaves."""
  rows = {}
  if (loss := results.get('summary.json', {}).get('loss')) is not None:
    rows['loss at the end'] = f'{loss:.4f}'
  for name, value in results.get('summary.json', {}).items():
    if name in ('top1', 'top5', 'test_top1', 'test_top5'):
      rows[f'{name.removeprefix("test_")} of the last test'] = f'{value:.3f}'
  for name, value in results.get('probe.json', {}).get('accuracy', {}).items():
    for probe, accuracy in value.items():
      rows[f'{probe} accuracy, {name}'] = f'{accuracy["top1"]:.3f}'
  return rows


def _loading(info: Mapping[str, Any], file: str, huggingface: bool) -> str:
  kind = info['kind']
  shape = {key: info[key] for key in ('frames', 'channels', 'size')}
  code, load = _source(transformers=huggingface), _load(file)
  plain = _PLAIN.format(code=code, load=load, call=_call(info), **shape)
  if not huggingface:
    return plain
  eps = ''
  if kind in _LAST_NORM:
    eps = f'{_LAST_NORM[kind]}.eps = {info["eps"]:g}  # config.json cannot say this one.\n'
  return _TRANSFORMERS.format(model=MODELS[kind], eps=eps, call=_CALLS[kind], **shape) + plain


def _load(file: str) -> str:
  if file.endswith('.pth'):
    return f"import torch\n\nw = torch.load('{file}', weights_only=True)['model']"
  load = f"w = safetensors.torch.load_file('{file}')"
  load = f'import safetensors.torch\nimport torch\n\n{load}'
  return load + ('\nw = from_transformers(w)' if file == 'model.safetensors' else '')


def _call(info: Mapping[str, Any]) -> str:
  eps, heads = info['eps'], info['encoder']['heads']
  lines = [f'features = encode(w, video, heads={heads}, eps={eps:g})  # Of all tokens.']
  if info['kind'] == 'classification':
    lines.append(f'logits = classify(w, features, eps={eps:g})')
  if info['kind'] == 'pretraining':
    pt, ph, pw = info['patch']
    n = (info['frames'] // pt) * (info['size'] // ph) * (info['size'] // pw)
    lines += [
      f'visible, hidden = torch.arange({n}).tensor_split([{max(1, n // 10)}])',
      f'shown = encode(w, video, heads={heads}, eps={eps:g}, visible=visible)',
      f'pixels = decode(w, shown, visible, hidden, heads={info["decoder"]["heads"]}, eps={eps:g})',
    ]
  return '\n'.join(f'  {line}' for line in lines)


def _source(*, transformers: bool) -> str:
  """The code of plain_torch.py."""
  text = (Path(__file__).parent / 'plain_torch.py').read_text(encoding='utf-8')
  code = text[text.index('def sincos') :]
  return (code if transformers else code[: code.index('def from_transformers')]).rstrip()


def _sizes(part: Mapping[str, Any]) -> str:
  return f'width {part["width"]}, depth {part["depth"]}, {part["heads"]} heads, MLP {part["mlp"]}'
