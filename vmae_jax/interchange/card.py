"""The model card beside exported weights."""

import json
import re
from collections.abc import Mapping
from typing import Any

PAPERS = {
  'videomae': 'https://arxiv.org/abs/2203.12602',
  'motionmae': 'https://arxiv.org/abs/2210.04154',
  'mam2': 'https://arxiv.org/abs/2210.05234',
  'mme': 'https://arxiv.org/abs/2210.06096',
  'mgmae': 'https://arxiv.org/abs/2308.10794',
  'mgm': 'https://arxiv.org/abs/2308.12962',
  'trackmae': 'https://arxiv.org/abs/2603.27268',
  'mvd': 'https://arxiv.org/abs/2212.04500',
  'salt': 'https://arxiv.org/abs/2509.24317',
  'vjepa': 'https://arxiv.org/abs/2404.08471',
}
MODELS = {
  'pretraining': 'VideoMAEForPreTraining',
  'classification': 'VideoMAEForVideoClassification',
  'encoder': 'VideoMAEModel',
}

_CARD = """---
{header}
---
# {title}

{what}

| | |
|---|---|
{rows}

Every LayerNorm has eps {eps:g}. Positions are sines and cosines that follow from the clip's size;
none are stored. Input: RGB in [0, 1], minus {mean}, divided by {std}.

Licence: not known to the program that wrote this card. State it here and in `license` above before
you publish; weights that started from those of MCG-NJU (VideoMAE) are under CC-BY-NC 4.0.

## Loading

{loading}
Made by vmae_jax.
"""

_TRANSFORMERS = """With transformers (tested with 4.40 and 5.23; early 5.x releases silently lose
the biases of queries and values):

```python
import torch
from transformers import {model}

folder = '.'  # The folder of this card.
model = {model}.from_pretrained(folder).eval()
{eps}video = torch.zeros(1, {frames}, {channels}, {size}, {size})  # A normalised clip.
with torch.no_grad():
{call}
```
{more}
"""
_PIPELINE = """
To classify the beginning of a file, with `from transformers import pipeline`:
`pipeline('video-classification', folder)('cat.mp4', frame_sampling_rate={})`.
"""
_CALLS = {
  'pretraining': """  tokens = (model.config.num_frames // model.config.tubelet_size) * (
    model.config.image_size // model.config.patch_size
  ) ** 2
  hidden = torch.arange(tokens)[None] % 10 > 0  # True where a token is not shown.
  features = model.videomae(video).last_hidden_state  # Features of all tokens.
  pixels = model(video, bool_masked_pos=hidden).logits  # Patches of the hidden ones.""",
  'classification': '  logits = model(video).logits',
  'encoder': '  features = model(video).last_hidden_state',
}
_OFFICIAL = """The tensors have the names of the official code
([VideoMAE](https://github.com/MCG-NJU/VideoMAE), modeling_pretrain.py and modeling_finetune.py),
whose models take them by `load_state_dict`:

```python
{code}
```

For transformers: `python -m vmae_jax.convert {file} --to=huggingface --out=FOLDER`.

"""


def model_card(info: Mapping[str, Any], *, file: str, rest: list[str]) -> str:
  """Markdown with method, data, steps, metrics, and how to load the weights in `file` beside it.

  `info` is as from `load_pretrained` or `load_run`; `rest` are the parameters in the side file.
  """
  huggingface = file == 'model.safetensors'
  kind, method, config = info['kind'], info['method'], info['config'] or {}
  data, masking = config.get('data', {}), config.get('masking', {})
  segments = data.get('sampling') == 'segment'
  sizes = 'width {width}, depth {depth}, {heads} heads, MLP {mlp}'
  holds = {'pretraining': 'encoder and decoder', 'encoder': 'encoder'}
  rows = {
    'method': f'[{method}]({PAPERS[method]})' if method in PAPERS else method,
    'holds': holds.get(kind, f'classifier of {info["classes"]} classes'),
    'encoder': sizes.format(**info['encoder']),
    'decoder': sizes.format(**info['decoder']) if info['decoder'] else '',
    'input': f'{info["frames"]} frames of {info["size"]} x {info["size"]}, patches of '
    + ' x '.join(map(str, info['patch'])),
    'started from': last_part(config.get('init_from', '')),
    'training data': last_part(data.get('train', '')),
    'frame stride': 'one frame of each equal segment' if segments else data.get('stride', ''),
    'steps': info.get('step', ''),
    'clips in a step': config.get('batch_size', ''),
    'masking': f'{masking["name"]}, ratio {masking["ratio"]}' if masking else '',
    **_metrics(info.get('results', {})),
  }
  if rest:
    parts = ', '.join(sorted({path.split('/')[0] for path in rest}))
    rows['in the side file'] = f'{len(rest)} parameters of {parts}, for vmae_jax alone'
  what = 'A video transformer pre-trained by masked autoencoding'
  # The Hub reads this as YAML, which includes JSON.
  header = dict(
    library_name='transformers' if huggingface else 'pytorch',
    pipeline_tag='video-classification' if kind == 'classification' else 'feature-extraction',
    license='unknown',
    tags=['video', 'masked-autoencoder', method],
  )
  name = rows['training data'].removesuffix('.txt').removesuffix('.csv')
  if name := re.sub(r'[^\w.-]+', '-', name).strip('-.'):
    header['datasets'] = [name]
  return _CARD.format(
    header='\n'.join(f'{k}: {json.dumps(v)}' for k, v in header.items()),
    title=f'{method}, width {info["encoder"]["width"]}, depth {info["encoder"]["depth"]}',
    what=f'{what} and fine-tuned.' if kind == 'classification' else f'{what}.',
    rows='\n'.join(f'| {name} | {value} |' for name, value in rows.items() if value != ''),
    loading=_loading(info, file),
    eps=info['eps'],
    mean=list(info['mean']),
    std=list(info['std']),
  )


def last_part(path: str) -> str:
  """The last part of a path, or of each of several joined by ' + ': the rest of it is private."""
  return ' + '.join(re.split(r'[/\\]', one.rstrip('/\\'))[-1] for one in path.split(' + '))


def _metrics(results: Mapping[str, Any]) -> dict[str, Any]:
  """Rows of the table, from the files with results that a run leaves."""
  summary, rows = results.get('summary.json', {}), {}
  if summary.get('loss') is not None:
    rows['loss at the end'] = f'{summary["loss"]:.4f}'
  for name, value in summary.items():
    if name in ('top1', 'top5', 'test_top1', 'test_top5'):
      rows[f'{name.removeprefix("test_")} of the last test'] = f'{value:.3f}'
  for name, value in results.get('probe.json', {}).get('accuracy', {}).items():
    for probe, accuracy in value.items():
      rows[f'{probe} accuracy, {name}'] = f'{accuracy["top1"]:.3f}'
  return rows


def _loading(info: Mapping[str, Any], file: str) -> str:
  if file != 'model.safetensors':
    code = f"from safetensors.torch import load_file\n\nstate = load_file('{file}')"
    if file.endswith('.pth'):
      code = f"import torch\n\nstate = torch.load('{file}', weights_only=True)['model']"
    return _OFFICIAL.format(code=code, file=file)
  kind, eps = info['kind'], ''
  if kind == 'pretraining' or info['pool'] == 'mean':  # See `huggingface.LAST_NORM_EPS`.
    norm = {'pretraining': 'decoder.norm', 'classification': 'fc_norm'}[kind]
    eps = f'model.{norm}.eps = {info["eps"]:g}  # config.json cannot say this one.\n'
  shape = {key: info[key] for key in ('frames', 'channels', 'size')}
  data = (info['config'] or {}).get('data', {})
  # The pipeline of transformers reads the beginning of a file at a fixed stride, never segments.
  dense = kind == 'classification' and data.get('sampling') != 'segment'
  more = _PIPELINE.format(data.get('stride', 4)) if dense else ''
  return _TRANSFORMERS.format(model=MODELS[kind], eps=eps, call=_CALLS[kind], more=more, **shape)
