"""The commands of `vmae_jax.prepare` for data sets that are folders of videos."""

import argparse
import functools
import hashlib
import inspect
import json
import math
import os
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

from vmae_jax import storage
from vmae_jax.cores import usable_cores
from vmae_jax.data.lists import check_name
from vmae_jax.data.shards import MANIFEST
from vmae_jax.errors import UserError
from vmae_jax.prepare import davis, layouts
from vmae_jax.prepare.beam_shards import pipeline_options, write_shards_with_beam
from vmae_jax.prepare.encoding import Encoding
from vmae_jax.prepare.layouts import Layout, Split, Tree
from vmae_jax.prepare.prepare_shards import MOST_FAILURES, too_many, write_shards
from vmae_jax.prepare.shard_sets import append_shards

SUMMARY = 'prepare.json'  # Marks a folder that this command has written.


class DataSet(NamedTuple):
  """A data set that has a command."""

  # (videos, annotations, split) -> Layout. It has `annotations`, the folder of lists, only if these
  # may lie apart from the videos, and `split` only if the data set has official splits 1 to 3.
  read: Callable[..., Layout]
  # Number of classes of the whole data set, and of videos in each of its splits.
  whole: dict[str, int | tuple[int, ...]]
  frames: bool = False  # Videos are folders of pictures: there is no file to copy or to cut.

  def takes(self, argument: str) -> bool:
    """Whether `read` has this argument."""
    return argument in inspect.signature(self.read).parameters


# Kinetics shrinks with every video that is taken down: only the number of its classes is fixed.
LAYOUTS = {
  'kinetics400': DataSet(layouts.kinetics, {'classes': 400}),
  'kinetics600': DataSet(layouts.kinetics, {'classes': 600}),
  'kinetics700': DataSet(layouts.kinetics, {'classes': 700}),
  'ssv2': DataSet(layouts.ssv2, {'classes': 174, 'train': 168_913, 'val': 24_777, 'test': 27_157}),
  'ucf101': DataSet(
    layouts.ucf101, {'classes': 101, 'train': (9537, 9586, 9624), 'test': (3783, 3734, 3696)}
  ),
  'hmdb51': DataSet(layouts.hmdb51, {'classes': 51, 'train': (3570,) * 3, 'test': (1530,) * 3}),
  'davis2017': DataSet(
    davis.davis2017, {'train': 60, 'val': 30, 'test-dev': 30, 'test-challenge': 30}, frames=True
  ),
  'folder': DataSet(layouts.folder, {}),
}


def add_commands(commands: argparse._SubParsersAction) -> None:
  """Adds a command for each layout; its `function` does the work."""
  for name, data_set in LAYOUTS.items():
    text = data_set.read.__doc__ or ''
    command = commands.add_parser(name, help=text.split('\n')[0], description=text)
    command.set_defaults(function=_prepare, layout=name)
    _add_arguments(command, data_set)


def _add_arguments(command: argparse.ArgumentParser, data_set: DataSet) -> None:
  add = command.add_argument
  add('source', metavar='SOURCE', help='folder with the videos, anywhere below it')
  add('--out', required=True, help='folder to write')
  if data_set.takes('annotations'):
    add('--annotations', help='folder with the lists of the data set (SOURCE)')
  if data_set.takes('split'):
    add('--split', type=int, choices=(1, 2, 3), default=1, help='official split (1)')
  if data_set.read is layouts.folder:
    add('--val', type=float, default=0.0, help='share of each class to hold out (0)')
  shards = command.add_argument_group('shards', 'The videos, encoded for fast random reading.')
  add = shards.add_argument
  defaults = Encoding()
  add(
    '--shards', action='store_true', help='also write OUT/SPLIT, a folder of shards to train from'
  )
  for option, text in (
    ('short_side', 'pixels of the shorter side; smaller videos keep theirs'),
    ('gop', 'largest distance between keyframes, in frames'),
    ('crf', 'quality of H.264: a lower number gives better and larger videos'),
  ):
    value = getattr(defaults, option)
    add(f'--{option.replace("_", "-")}', type=int, metavar='N', help=f'{text} ({value})')
  command.set_defaults(copy=False, cut=0.0)
  if not data_set.frames:
    add('--copy', action='store_true', help='keep the bytes of the files instead')
    text = 'cut into clips FILM@00000, FILM@00001, ... of this length; the last may be shorter'
    add('--cut', type=float, default=0.0, metavar='SECONDS', help=text)
  text = 'videos in a shard (about 1.5 GB of them; 1 with --cut)'
  add('--shard-videos', type=int, default=0, metavar='N', help=text)
  text = 'add new videos to complete shards, as further shards'
  add('--append', action='store_true', help=text)
  add('--workers', type=int, metavar='N', help='processes (one a processor)')
  add('--beam', action='store_true', help='write the shards with Apache Beam, on many machines')
  add('--beam-options', default='', metavar='--X=Y,--Z', help='flags of Beam: --runner, ...')
  add('--seconds', type=float, default=600.0, help='time limit for one video, or one cut (600)')
  add('--retry', action='store_true', help='try all failed videos again, in complete shards, too')


def _encoding(args: argparse.Namespace) -> Encoding | None:
  """How videos are encoded, None with --copy; checks the options of shards."""
  given = {k: v for k in ('short_side', 'gop', 'crf') if (v := getattr(args, k)) is not None}
  others = [
    name for name in ('copy', 'cut', 'retry', 'append', 'shard_videos') if getattr(args, name)
  ]
  for name in (*given, *others):
    if not args.shards:
      raise UserError(f'--{name.replace("_", "-")} is for shards: give --shards as well.')
  for name, least, most in (('short_side', 16, 4320), ('gop', 1, 1000), ('crf', 0, 51)):
    if name in given and not least <= given[name] <= most:
      name, value = name.replace('_', '-'), given[name]
      raise UserError(f'--{name}={value}: it must be from {least} to {most}.')
  if not 0 <= args.cut < math.inf:
    raise UserError(f'--cut={args.cut:g}: give the seconds of a clip.')
  if args.copy and (given or args.cut):
    name = next(iter(given), 'cut').replace('_', '-')
    raise UserError(f'--copy keeps the videos as they are: leave out --{name}.')
  return None if args.copy else Encoding(**given)


def _beam(args: argparse.Namespace) -> Any:
  """Options of the pipeline, None without --beam; checks the flags that concern it."""
  if not args.beam:
    if args.beam_options:
      raise UserError('--beam-options are for a pipeline: give --beam as well.')
    if args.shards and storage.is_remote(args.out):
      raise UserError(f'--out={args.out}: only --beam writes shards there; or name a local folder.')
    return None
  if not args.shards:
    raise UserError('--beam is for shards: give --shards as well.')
  if args.workers is not None:
    raise UserError(
      '--workers: with --beam give it to the runner, as by --beam-options=--direct_num_workers=8.'
    )
  return pipeline_options(args.beam_options)


def hold_out(layout: Layout, share: float) -> None:
  """Moves this share of each class, at least one of two or more videos, from `train` to `val`.

  A hash of their names decides which, so that few change their split when videos are added.

  Raises:
    UserError: it is no share, or the data set has splits.
  """
  if not 0 < share < 1:
    raise UserError(f'--val={share:g} is no share of the videos: give one such as 0.2.')
  if list(layout.splits) != ['train']:
    raise UserError(f'--val: the folder already has the splits {", ".join(layout.splits)}.')
  classes = defaultdict(list)
  for video in layout.splits['train'].videos:
    classes[video.label].append(video)
  held = set()
  for videos in classes.values():
    videos.sort(key=lambda video: hashlib.sha256(os.fsencode(video.id)).digest())
    held.update(videos[: min(len(videos) - 1, max(1, round(share * len(videos))))])
  whole, layout.splits['val'] = layout.splits['train'].videos, Split()
  layout.splits['train'].videos = [video for video in whole if video not in held]
  layout.splits['val'].videos = [video for video in whole if video in held]


def _write_lists(out: str, layout: Layout, summary: dict[str, Any]) -> None:
  """Writes the lists, names of classes, missing and damaged videos, and the summary."""
  texts = {}
  for name, split in layout.splits.items():
    whole = [video for video in split.videos if not video.damage]
    for video in whole:
      check_name(video.path)
    texts[f'{name}.txt'] = ''.join(f'{v.path} {v.label}\n' for v in whole)
  splits = layout.splits.items()
  texts['missing.txt'] = ''.join(f'{name} {id}\n' for name, s in splits for id in s.missing)
  texts['damaged.txt'] = ''.join(
    f'{name} {v.id}: {v.damage}\n' for name, s in splits for v in s.videos if v.damage
  )
  texts['classes.txt'] = ''.join(f'{name}\n' for name in layout.classes)
  try:
    if storage.is_file(f'{out}/{SUMMARY}'):
      found = layouts.read_json(f'{out}/{SUMMARY}', dict)
      found.setdefault('val', 0.0)  # Earlier versions wrote none.
      for key in ('layout', 'split', 'val'):
        if found.get(key) != summary[key]:
          what = f'the {key} {found.get(key)}, not {summary[key]}'
          raise UserError(f'{out} holds {what}: give another folder.')
    else:
      for name in texts:
        if storage.is_file(f'{out}/{name}'):
          raise UserError(f'{out} has a {name} of something else: give another folder.')
    storage.make_folder(out)
    storage.write_text(f'{out}/{SUMMARY}', json.dumps(summary, indent=1) + '\n')
    for name, text in texts.items():
      if text:
        storage.write_text(f'{out}/{name}', text)
      else:
        storage.remove(f'{out}/{name}')
  except OSError as e:
    raise UserError(f'--out={out} cannot be written: {e.strerror or e}.') from e


def _counts(layout: Layout, whole: dict[str, Any], official: int | None) -> list[str]:
  """Lines of what was found, beside what the whole data set has."""

  def of(name: str) -> str:
    number = whole.get(name)
    number = number[(official or 1) - 1] if isinstance(number, tuple) else number
    return f' (the whole data set has {number})' if number else ''

  lines = [f'{len(layout.classes)} classes{of("classes")}']
  for name, split in layout.splits.items():
    listed = len(split.videos) + len(split.missing)
    text = f'{name}: {listed} videos{of(name)}'
    if split.missing:
      text += f', {len(split.missing)} of them are missing, such as {split.missing[0]}'
    if damaged := [video for video in split.videos if video.damage]:
      text += f', {len(damaged)} damaged, such as {damaged[0].id} ({damaged[0].damage})'
    lines.append(f'{text}; {split.about}' if split.about else text)
  return lines


def _prepare(args: argparse.Namespace) -> None:
  data_set = LAYOUTS[args.layout]
  encoding = _encoding(args)
  workers = args.workers if args.workers is not None else usable_cores()
  beam = _beam(args)
  if workers < 1 or args.seconds <= 0 or args.shard_videos < 0:
    raise UserError('--workers must be at least 1, --seconds and --shard-videos more than 0.')
  videos, official = Tree(args.source), None
  given: dict[str, Any] = {}
  if data_set.takes('annotations'):
    given['annotations'] = Tree(args.annotations) if args.annotations else videos
  if data_set.takes('split'):
    given['split'] = official = args.split
  layout = data_set.read(videos, **given)
  if val := getattr(args, 'val', 0.0):
    hold_out(layout, val)
  lines = _counts(layout, data_set.whole, official)
  print('\n'.join(lines))
  if not any(split.videos for split in layout.splits.values()):
    raise UserError(f'none of the videos is in {args.source}: is it the right folder?')
  summary = {'layout': args.layout, 'split': official, 'found': lines, 'val': val}
  _write_lists(args.out, layout, summary)
  bad = []
  for name, split in layout.splits.items():
    if not all(video.damage for video in split.videos):
      print(f'wrote {args.out}/{name}.txt')
    if not args.shards or not split.videos:
      continue
    write = functools.partial(write_shards, workers=workers)
    if beam is not None:
      write = functools.partial(write_shards_with_beam, options=beam)
    if args.append:
      write = functools.partial(append_shards, write)
    manifest = write(
      split.videos,
      f'{args.out}/{name}',
      about={'layout': args.layout, 'official_split': official, 'split': name},
      classes=layout.classes,
      encoding=encoding,
      cut=args.cut,
      shard_videos=args.shard_videos,
      seconds=args.seconds,
      retry=args.retry,
    )
    failures = manifest['failures']
    text = f'wrote {args.out}/{name}: {manifest["records"]} videos in {len(manifest["shards"])} '
    text += f'shards, {manifest["bytes"] / 1e6:.1f} MB, hash {manifest["hash"][:16]}'
    if failures:
      text += f'; {len(failures)} failed, such as {failures[0]["id"]} ({failures[0]["reason"]})'
    print(text)
    if too_many(len(failures), len(split.videos)) or not manifest['records']:
      bad.append(f'{len(failures)} of {len(split.videos)} videos of {name}')
  if bad:
    raise UserError(
      f'{" and ".join(bad)} cannot be used, more than {MOST_FAILURES:.0%}: {args.out}/SPLIT/'
      f'{MANIFEST} has the reasons. The others are written; repair the files and give --retry.'
    )
