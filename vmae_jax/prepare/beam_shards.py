"""Writes shards as an Apache Beam pipeline: on this machine, or by flags on Dataflow, Flink, Spark.

One element is one shard. A worker reads the shard's list of videos from the folder of shards,
encodes them as `write_shards` does, in a folder of its own, and adds the complete shard to the
others; all get their names when the last one is there. An element may be done twice, even at the
same time. A pipeline that was killed continues when it is started again, with or without Beam;
unlike without Beam, it encodes all videos of an incomplete shard again.

The folder and the videos must be reachable under the same paths by all workers: a network disk,
or `gs://` and `s3://`.
"""

import difflib
import functools
import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from vmae_jax import storage
from vmae_jax.data.shards import PARTS
from vmae_jax.errors import Unavailable, UserError
from vmae_jax.prepare import staging
from vmae_jax.prepare.encoding import Encoding
from vmae_jax.prepare.layouts import Listed
from vmae_jax.prepare.pool import Lost, run_all
from vmae_jax.prepare.prepare_shards import Shards, write_shards

# With these, Beam's default, the DirectRunner on this machine, uses all processors.
DEFAULTS = ('--direct_num_workers=0', '--direct_running_mode=multi_threading')


def pipeline_options(flags: str) -> Any:
  """Beam's options from its flags, which commas separate: `--runner=DirectRunner,--x=y`.

  Raises:
    UserError: Beam is not installed, or knows no such flag.
  """
  try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
  except ImportError as e:
    raise UserError(f'--beam needs Apache Beam: pip install apache-beam ({e}).') from e
  given = [flag for flag in re.split(r',(?=--)', flags) if flag]
  if wrong := [flag for flag in given if not re.match(r'--\w', flag)]:
    raise UserError(f'--beam-options: {wrong[0]!r} is no flag such as --runner=FlinkRunner.')
  options = PipelineOptions([*DEFAULTS, *given])
  try:
    known = options.get_all_options()
  except SystemExit as e:
    raise UserError(f'--beam-options={flags}: Beam refuses a value, see above.') from e
  except ValueError as e:
    raise UserError(f'--beam-options: {" ".join(str(e).split())}') from e
  for name in options.get_all_options(retain_unknown_options=True):
    if name not in known:
      close = difflib.get_close_matches(name, known, n=1)
      hint = f' Did you mean --{close[0]}?' if close else ''
      raise UserError(f'--beam-options: Beam has no flag --{name}.{hint}')
  try:
    beam.Pipeline(options=options)  # Asks the runner.
  except (ValueError, ImportError) as e:
    raise UserError(f'--beam-options={flags}: {" ".join(str(e).split())}') from e
  return options


def _write_shard(task: str) -> None:
  """Runs in Beam's workers: writes one shard, given the path of its list."""
  todo = json.loads(storage.read_text(task))
  parts, name = os.path.dirname(task), todo['name']
  videos = [Listed(**video) for video in todo['videos']]
  encoding = todo['encoding'] and Encoding(**todo['encoding'])
  # Files in a folder beside the shard's place are moved at once, and a later run removes leftovers.
  with tempfile.TemporaryDirectory(dir=None if storage.is_remote(parts) else parts) as temp:
    tasks = [
      staging.Task(folder=f'{temp}/files', place=i, video=video, encoding=encoding, cut=todo['cut'])
      for i, video in enumerate(videos)
    ]
    os.mkdir(f'{temp}/files')
    for one, got in run_all(staging.stage, tasks, workers=1, seconds=todo['seconds']):
      if isinstance(got, OSError):
        raise got
      if isinstance(got, Lost):
        staging.write_failure(one, reason=str(got), may_pass=True)
    part = staging.pack(f'{temp}/files', videos, temp, name)
    if part['shard']:
      storage.put(f'{temp}/{staging.content(part)}', f'{parts}/{staging.content(part)}')
    storage.put(f'{temp}/{name}.json', f'{parts}/{name}.json')


def _write_lists(shards: Shards, parts: str, **how: Any) -> list[str]:
  """Writes for each shard the list that `_write_shard` reads; returns the paths."""
  tasks = []
  for name, videos in shards.items():
    tasks.append(f'{parts}/{name}.videos')
    todo = how | {'name': name, 'videos': [asdict(video) for video in videos]}
    storage.write_text(tasks[-1], json.dumps(todo))
  return tasks


def _run_pipeline(shards: Shards, parts: str, *, options: Any, **how: Any) -> None:
  """Writes these shards and waits for them; `how` is for `_write_lists`."""
  import apache_beam as beam

  tasks = _write_lists(shards, parts, **how)
  runner = options.get_all_options()['runner'] or 'DirectRunner'
  print(f'{parts}: {len(shards)} shards to write with {runner}', flush=True)
  try:
    pipeline = beam.Pipeline(options=options)
    elements = pipeline | 'shards' >> beam.Create(tasks) | beam.Reshuffle()
    _ = elements | 'write' >> beam.Map(_write_shard)
    state = pipeline.run().wait_until_finish()
  except Exception as e:  # Every runner has errors of its own.
    text = str(e).strip().splitlines() or [type(e).__name__]
    last = next((line for line in reversed(text) if re.match(r'[\w.]*(Error|Exception)', line)), '')
    raise Unavailable(
      f'the pipeline failed ({(last or text[0])[:300]}); the same command continues from here.'
    ) from e
  if state != 'DONE':
    raise Unavailable(f'the pipeline ended as {state}; the same command continues from here.')


def write_shards_with_beam(
  videos: Sequence[Listed],
  out: str,
  *,
  encoding: Encoding | None,
  cut: float = 0.0,
  seconds: float,
  options: Any,
  **more: Any,
) -> dict[str, Any]:
  """Does what `write_shards` does, with the same bytes as result, as a pipeline.

  All workers must have the folder `out` under this path. `options` are those of `pipeline_options`,
  the other arguments those of `write_shards`.

  Raises:
    UserError: as `write_shards`.
    Unavailable: as `write_shards`, or the pipeline failed.
  """
  out = storage.absolute(out)
  how = {'cut': cut, 'seconds': seconds}
  write = functools.partial(_run_pipeline, parts=f'{out}/{PARTS}', options=options, **how)
  write = functools.partial(write, encoding=encoding and asdict(encoding))
  return write_shards(videos, out, write=write, workers=1, encoding=encoding, **how, **more)
