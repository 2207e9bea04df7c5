"""Writes shards as an Apache Beam pipeline: on Dataflow, Flink or Spark by flags, or here.

One element is one shard. Whoever takes it reads its list of videos, which lies in the folder of
shards, encodes them as the local engine does, in a folder of its own, and moves the complete
shard to its place, its part of the index first. An element done twice ends in the same bytes, and
a pipeline that was killed goes on when it is started again, here or with Beam.

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
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vmae_jax import storage
from vmae_jax.data.shards import INDEX, MANIFEST, PARTS
from vmae_jax.errors import UserError
from vmae_jax.prepare.encoding import Encoding
from vmae_jax.prepare.layouts import Listed
from vmae_jax.prepare.pool import Lost, run_all
from vmae_jax.prepare.prepare_shards import _check_room, _encode, _finish, _Shard, write_shards

# What `--runner=DirectRunner`, Beam's own default, does without more flags: all processors.
HERE = ('--direct_num_workers=0', '--direct_running_mode=multi_threading')


def pipeline_options(flags: str) -> Any:
  """Beam's options from its flags, which commas separate: `--runner=DirectRunner,--x=y`.

  Raises:
    UserError: Beam is not installed, or knows no such flag.
  """
  try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
  except ImportError as e:
    raise UserError(f"--beam needs Apache Beam: pip install 'vmae_jax[beam]' ({e}).") from e
  given = [flag for flag in re.split(r',(?=--)', flags) if flag]
  if wrong := [flag for flag in given if not re.match(r'--\w', flag)]:
    raise UserError(f'--beam-options: {wrong[0]!r} is no flag such as --runner=FlinkRunner.')
  # Of flags, not as arguments of this program: Beam would end it at a mistake.
  options = PipelineOptions([*HERE, *given])
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
  out, name = todo['out'], todo['name']
  videos = [Listed(**video) for video in todo['videos']]
  encoding = None if todo['encoding'] is None else Encoding(**todo['encoding'])
  # Beside its place it can be moved there at once; what is left of a kill goes with PARTS.
  beside = None if storage.is_remote(out) else os.path.join(out, PARTS)
  with tempfile.TemporaryDirectory(dir=beside) as mine:
    folder = Path(mine)
    (folder / PARTS).mkdir()
    shard = _Shard(folder / PARTS / f'{name}.partial')
    tasks = [(i, video, encoding) for i, video in enumerate(videos)]
    try:
      for (i, _, _), got in run_all(_encode, tasks, workers=1, seconds=todo['seconds']):
        shard.add(i, str(got) if isinstance(got, Lost) else got, videos)
      _finish(shard, folder, name)
    finally:
      with suppress(OSError):  # Of a full disk, which is being told already.
        shard.close()
    storage.put(folder / PARTS / f'{name}.json', f'{out}/{PARTS}/{name}.json')
    if shard.headers:
      storage.put(folder / name, f'{out}/{name}')


def _run_pipeline(
  shards: dict[str, Sequence[Listed]],
  out: str,
  *,
  encoding: Encoding | None,
  seconds: float,
  options: Any,
) -> None:
  """Writes these shards, name -> videos, and waits for them."""
  import apache_beam as beam

  if not shards:
    return
  tasks = []
  for name, videos in shards.items():
    todo = {'out': out, 'name': name, 'seconds': seconds}
    todo['encoding'] = None if encoding is None else asdict(encoding)
    todo['videos'] = [asdict(video) for video in videos]
    tasks.append(f'{out}/{PARTS}/{name}.videos.json')
    storage.write_text(tasks[-1], json.dumps(todo))
  runner = options.get_all_options()['runner'] or 'DirectRunner'
  print(f'{out}: {len(shards)} shards to write with {runner}', flush=True)
  try:
    pipeline = beam.Pipeline(options=options)
    elements = pipeline | 'shards' >> beam.Create(tasks) | beam.Reshuffle()
    _ = elements | 'write' >> beam.Map(_write_shard)
    state = pipeline.run().wait_until_finish()
  except Exception as e:  # Every runner has errors of its own.
    text = str(e).strip().splitlines() or [type(e).__name__]
    last = next((line for line in reversed(text) if re.match(r'[\w.]*(Error|Exception)', line)), '')
    raise UserError(
      f'the pipeline failed ({(last or text[0])[:300]}); started again, this goes on from here.'
    ) from e
  if state != 'DONE':
    raise UserError(f'the pipeline ended as {state}; started again, this goes on from here.')


def write_shards_with_beam(
  videos: Sequence[Listed],
  out: str,
  *,
  encoding: Encoding | None,
  seconds: float,
  options: Any,
  **more: Any,
) -> dict[str, Any]:
  """Does what `write_shards` does, to the same bytes, as a pipeline.

  Args:
    videos: In the order of the records; at least one.
    out: A folder here, which all workers have under this path, or one elsewhere.
    encoding: None keeps the files' own bytes.
    seconds: Time limit for one video.
    options: What `pipeline_options` returned.
    **more: Further arguments of `write_shards`.

  Returns:
    The manifest.

  Raises:
    UserError: as `write_shards`, or the pipeline failed.
  """
  run = functools.partial(
    _run_pipeline, out=storage.absolute(out), encoding=encoding, seconds=seconds, options=options
  )
  more |= {'encoding': encoding, 'seconds': seconds, 'workers': 1}
  if not storage.is_remote(out):

    def write_here(shards: dict[str, Sequence[Listed]]) -> None:
      left = [video for videos in shards.values() for video in videos]
      tasks = [(i, video, encoding) for i, video in enumerate(left)]
      _check_room(Path(out), tasks, workers=1, seconds=seconds)
      run(shards)

    return write_shards(videos, Path(out), write=write_here, **more)
  with tempfile.TemporaryDirectory() as here:
    folder = Path(here)

    def write(shards: dict[str, Sequence[Listed]]) -> None:
      plan = f'{PARTS}/plan.json'
      storage.write_text(f'{out}/{plan}', (folder / plan).read_text(encoding='utf-8'))
      run(shards)
      _mirror(out, folder)

    try:
      _mirror(out, folder)
      manifest = write_shards(videos, folder, write=write, **more)
      if not storage.is_file(f'{out}/{MANIFEST}'):
        for name in (INDEX, MANIFEST):
          storage.put(folder / name, f'{out}/{name}')
      storage.remove(f'{out}/{PARTS}')
      return manifest
    except OSError as e:
      raise UserError(f'{e.filename}: {e.strerror}; started again, this goes on from here.') from e


def _mirror(out: str, folder: Path) -> None:
  """Makes `folder` say of a run what a folder elsewhere says: small files, and names of others."""
  if not storage.is_folder(out):
    return
  for name in storage.names(out):
    if name == PARTS:
      (folder / PARTS).mkdir(exist_ok=True)
      parts = [n for n in storage.names(f'{out}/{PARTS}') if not n.endswith('.videos.json')]
      with ThreadPoolExecutor(32) as pool:
        texts = pool.map(lambda name: storage.read_text(f'{out}/{PARTS}/{name}'), parts)
        for part, text in zip(parts, texts, strict=True):
          (folder / PARTS / part).write_text(text, encoding='utf-8', newline='')
    elif name == MANIFEST:
      (folder / MANIFEST).write_text(storage.read_text(f'{out}/{MANIFEST}'), encoding='utf-8')
    else:
      (folder / name).touch()
