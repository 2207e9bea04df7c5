"""Lists: the forms of their lines, what programs write into them, and what is refused."""

import hashlib
import pickle

import pytest

from vmae_jax import peers, storage
from vmae_jax.data.sources import check_paths, open_source
from vmae_jax.errors import UserError


@pytest.fixture
def warnings(monkeypatch):
  """What is warned of."""
  told = []
  monkeypatch.setattr('absl.logging.warning', lambda text, *args: told.append(text % args))
  return told


def _list(tmp_path, text, name='list.csv'):
  path = tmp_path / name
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return str(path)


def _read(tmp_path, text):
  """(path below the list's folder, label, start, count) of each line."""
  entries = open_source(_list(tmp_path, text)).entries
  return [(e.path.removeprefix(f'{tmp_path}/'), e.label, e.start, e.count) for e in entries]


@pytest.mark.parametrize(
  'line, name, label, start, count',
  [
    ('a.mp4 7', 'a.mp4', 7, 0, -1),
    ('a.mp4 -1', 'a.mp4', -1, 0, -1),
    ('a.mp4,7', 'a.mp4', 7, 0, -1),
    ('a.mp4, 7', 'a.mp4', 7, 0, -1),
    ('a.mp4\t7', 'a.mp4', 7, 0, -1),
    ('a.mp4', 'a.mp4', -1, 0, -1),
    ('a.mp4 0 -1', 'a.mp4', -1, 0, -1),
    ('a.mp4 0 64', 'a.mp4', -1, 0, 64),
    ('a.mp4 10 64 3', 'a.mp4', 3, 10, 64),
    ('a.mp4,10,64,3', 'a.mp4', 3, 10, 64),
    ('a.mp4 10 64 0 3', 'a.mp4 10', 3, 64, 0),
    ('my clip 2, part 3.mp4 7', 'my clip 2, part 3.mp4', 7, 0, -1),
    ('my clip 2.mp4', 'my clip 2.mp4', -1, 0, -1),
    ('clip-12 7', 'clip-12', 7, 0, -1),
    ('"clip 12" 7', 'clip 12', 7, 0, -1),
    ('"clip 12"', 'clip 12', -1, 0, -1),
    ('"a, b.mp4",7', 'a, b.mp4', 7, 0, -1),
    ('"a.mp4 c0" 7', 'a.mp4 c0', 7, 0, -1),
    ('  a.mp4 7  ', 'a.mp4', 7, 0, -1),
    ('/elsewhere/a.mp4 7', '/elsewhere/a.mp4', 7, 0, -1),
    ('gs://bucket/a.mp4 7', 'gs://bucket/a.mp4', 7, 0, -1),
    ('s3://bucket/a b.mp4,7', 's3://bucket/a b.mp4', 7, 0, -1),
    ('https://host/a.mp4', 'https://host/a.mp4', -1, 0, -1),
  ],
)
def test_forms_of_a_line(tmp_path, line, name, label, start, count):
  if count == 0:
    with pytest.raises(UserError, match='is none of'):
      _read(tmp_path, line)
    return
  assert _read(tmp_path, f'# a comment\n\n{line}\r\n{line}\n') == [(name, label, start, count)] * 2
  # The line can be made again from the path and its tail.
  entry = open_source(_list(tmp_path, line)).entries[0]
  quote = '"' if entry.tail.startswith('"') else ''
  assert f'{quote}{name}{entry.tail}' == line.strip()


def test_where_relative_paths_start(tmp_path):
  path = _list(tmp_path, '/data/a.mp4 0\nb/c.mp4 1\ngs://b/d.mp4 1\n')
  for root, start in (('/videos', '/videos'), ('s3://other/x', 's3://other/x'), ('', tmp_path)):
    source = open_source(path, root=root)
    assert [source.name(i) for i in range(3)] == ['/data/a.mp4', f'{start}/b/c.mp4', 'gs://b/d.mp4']


def test_a_list_in_a_bucket(memory):
  text = (
    b'a.mp4 0\n./b.mp4 0\n../c/d.mp4 0\n../c/e/ 0\ns3://x/f.mp4 0\nmemory://b/g.mp4 0\n/h.mp4 0\n'
  )
  memory.pipe('/b/lists/train.txt', text)
  source = open_source('memory://b/lists/train.txt')
  assert [source.name(i) for i in range(7)] == [
    'memory://b/lists/a.mp4',
    'memory://b/lists/b.mp4',
    'memory://b/c/d.mp4',
    'memory://b/c/e/',
    's3://x/f.mp4',
    'memory://b/g.mp4',
    '/h.mp4',
  ]


def test_class_names(tmp_path):
  path = _list(tmp_path, 'a.mp4 0\nb.mp4 1\n')
  for text in ('run\nwalk\n', '\ufeffrun\r\nwalk', 'run  \nwalk\n\n'):
    _list(tmp_path, text, 'classes.txt')
    assert open_source(path).class_names == ('run', 'walk')
  for text, message in (
    ('run\n', 'label 1, but .* only 1 classes'),
    ('run\n\nwalk\n', 'classes.txt, line 2: a class has no name'),
    ('run\nwälk'.encode('latin-1'), 'not in UTF-8: save it as UTF-8'),
  ):
    _list(tmp_path, text, 'classes.txt')
    with pytest.raises(UserError, match=message):
      open_source(path)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
  for mark in ('', '\ufeff'):
    assert _read(tmp_path, f'{mark}a.mp4 0\r\nb.mp4 0\r\n')[0] == ('a.mp4', 0, 0, -1)
    assert len(_read(tmp_path, f'{mark}# a comment\nb.mp4 0\n')) == 1


@pytest.mark.parametrize('encoding', ['utf-16', 'utf-16-le', 'latin-1'])
def test_other_encodings_are_reported(tmp_path, encoding):
  path = _list(tmp_path, 'ä.mp4 0\nb.mp4 0\n'.encode(encoding))
  utf16 = ', but in UTF-16' if encoding == 'utf-16' else ''
  with pytest.raises(UserError, match=f'list.csv: it is not in UTF-8{utf16}: save it as UTF-8$'):
    open_source(path)


@pytest.mark.parametrize('mark', ['\u2028', '\u2029', '\x85', '\x0b', '\x0c', '\x1e'])
def test_names_hold_what_other_programs_take_for_line_ends(tmp_path, mark):
  name = f'fun{mark}ny.mp4'
  assert [x[0] for x in _read(tmp_path, f'{name} 0\nb.mp4 1\n')] == [name, 'b.mp4']
  (tmp_path / 'videos').mkdir()
  (tmp_path / 'videos' / name).touch()
  assert open_source(str(tmp_path / 'videos')).name(0).endswith(name)


def test_names_that_begin_with_a_hash(tmp_path, warnings):
  text = '#20_clap.mp4 0\n# a comment\n#\n#### 0\n#2/x.avi 1\n#20/ 1\n"#3.mp4" 0\nv.mp4 1\n'
  names = ['#20_clap.mp4', '#2/x.avi', '#20/', '#3.mp4', 'v.mp4']
  assert [x[0] for x in _read(tmp_path, text)] == names
  assert not warnings
  # What was taken out on purpose is left out, and told.
  text = '# a.mp4 0\n#/data/b.mp4 0\n#gs://b/c.mp4 0\nv.mp4 1\nw.mp4 0\n'
  assert [x[0] for x in _read(tmp_path, text)] == ['v.mp4', 'w.mp4']
  assert len(warnings) == 1 and "3 comments name videos, such as '# a.mp4 0'" in warnings[0]


@pytest.mark.parametrize(
  'text, entries',
  [
    ('x/ 4 1\ny/ 12 0\n', [('x/', 1, 0, 4), ('y/', 0, 0, 12)]),
    ('x 4 1\nsub/y 12 0\n', [('x/', 1, 0, 4), ('sub/y/', 0, 0, 12)]),
    ('x.avi 4 0\n', [('x.avi', 0, 0, 4)]),
    ('x/ 4 -1\ny/ 3 0\n', [('x/', -1, 0, 4), ('y/', 0, 0, 3)]),
    ('"x 1/" 4 0\n', [('x 1/', 0, 0, 4)]),
    # VideoMAE V2's.
    ('x/ 0 4\ny/ 0 12\n', [('x/', -1, 0, 4), ('y/', -1, 0, 12)]),
    ('x.mp4 0 -1\n', [('x.mp4', -1, 0, -1)]),
  ],
)
def test_raw_frames(tmp_path, text, entries):
  assert _read(tmp_path, text) == entries
  again = open_source(_list(tmp_path, text)).entries
  # Written again, each line says by itself what it means.
  lines = ['"' * e.tail.startswith('"') + f'{e.path}{e.tail}\n' for e in again]
  for line, entry in zip(lines, entries, strict=True):
    assert _read(tmp_path, line) == [entry]


def test_a_long_list_goes_to_processes_as_the_name_of_a_file(tmp_path):
  """What it holds is in no process' memory, and is the same in all."""
  names = [f'{"é" * (i % 7)}{i}.mp4' for i in range(9000)]
  text = ''.join(f'{name} {i} {i + 1} {i % 5}\n' for i, name in enumerate(names))
  entries = open_source(_list(tmp_path, text)).entries
  assert len(pickle.dumps(entries)) < 300
  expected = [(f'{tmp_path}/{name}', i % 5, i, i + 1) for i, name in enumerate(names)]
  there = pickle.loads(pickle.dumps(entries))
  assert [x[:4] for x in there] == [x[:4] for x in entries] == expected
  assert [there[i][:4] for i in (0, 4095, 4096, -1)] == [expected[i] for i in (0, 4095, 4096, -1)]
  with pytest.raises(IndexError):
    there[9000]


@pytest.mark.parametrize(
  'odd, folder',
  [
    ('', '/data/k400'),
    ('/data/x/odd.mp4', '/data'),
    ('/data/k4/odd.mp4', '/data'),
    ('/odd.mp4', '/'),
  ],
)
def test_the_hash_of_a_list(tmp_path, odd, folder):
  """All paths from the folder on that they have in common, wherever the odd one is among them."""
  paths = [f'/data/k400/v{i:03d}.mp4' for i in range(200)]
  paths[101:101] = [odd] if odd else []
  told = ''.join(repr((path[len(folder) :], 3, 0, -1)) for path in paths)
  source = open_source(_list(tmp_path, ''.join(f'{path} 3\n' for path in paths)))
  assert source.about() == hashlib.sha256(told.encode()).hexdigest()[:12]


@pytest.mark.parametrize(
  'text, message',
  [
    ('', 'names no video'),
    ('# nothing\n\n', 'names no video'),
    ('a.mp4 1\nb.mp4\n', 'line 2: 0 numbers after the path, but 1'),
    ('a.mp4 1\nb.mp4 0 -1 2\n', 'line 2: 3 numbers after the path, but 1'),
    ('a.mp4 -2\n', 'line 1: .* is none of'),
    ('a.mp4 0 0 1\n', 'line 1: .* is none of'),
    ('a.mp4 -1 4 1\n', 'line 1: .* is none of'),
    ('a.mp4 20231105120000\n', 'line 1: .* is none of.*none above 2147483647'),
    ('"a.mp4 1\n', 'line 1: .* is none of'),
    ('"a.mp4"1\n', 'line 1: .* is none of'),
    ('"a.mp4" one\n', 'line 1: .* is none of'),
    (', 1\n', 'line 1: .* is none of'),
    # Numbers that have two meanings.
    ('x/ 4 1\ny/ 4 2\n', 'x/ 4 1. may mean start and count, or total and label of raw frames'),
    ('x.mp4 4 1\n', 'may mean start and count'),
    ('x/ 0 5\ny/ 4 -1\n', 'may mean start and count'),
    ('x/ 0 5\ny/ 4 0\n', 'x/ 0 5. has no frame, or no count'),
    # Headers and what pandas writes.
    ('path,label\na.mp4,0\n', "the first line, 'path,label', looks like a header: .*index=False"),
    ('path label\n/x/a 0\n', 'looks like a header'),
    ('path\na.mp4\nb.mp4\n', "the first line, 'path', looks like a header"),
    (',path,label\n0,a.mp4,0\n', "the first line, ',path,label', looks like a header"),
    ('0,a.mp4,0\n1,b.mp4,0\n', 'every line begins with a number.*index=False'),
    # Labels that are no numbers.
    ('a.mp4 c0\nb.mp4 c1\n', "line 1: 'c0' in 'a.mp4 c0' is no whole number.*classes.txt"),
    ('a.mp4 0\nb.mp4 1.0\n', "line 2: '1.0' in 'b.mp4 1.0' is no whole number"),
    ('a.mp4,ride a bike\n', "line 1: 'ride a bike' in"),
    ('a.mp4 c0 3\n', "line 1: 'c0' in"),
    ('x/ c0\n', "line 1: 'c0' in"),
  ],
)
def test_mistakes(tmp_path, text, message):
  with pytest.raises(UserError, match=message) as e:
    open_source(_list(tmp_path, text))
  assert '\n' not in str(e.value)


def test_labels_that_start_at_1(tmp_path, warnings):
  path = _list(tmp_path, 'a.mp4 1\nb.mp4 2\nc.mp4 -1\n')
  assert [x.label for x in open_source(path).entries] == [1, 2, -1]
  assert warnings == [f'{path}: class 0 has no video, as the lowest label is 1: labels start at 0.']
  _list(tmp_path, 'run\nwalk\nsit\n', 'classes.txt')
  open_source(path)
  assert 'class 0 (run) has no video' in warnings[1]
  open_source(_list(tmp_path, 'a.mp4 2\nb.mp4 0\n'))
  open_source(_list(tmp_path, 'a.mp4 -1\n'))
  assert len(warnings) == 2


def test_missing_files(tmp_path, warnings):
  path = _list(tmp_path, ''.join(f'{i}.mp4 0\n' for i in range(10)))
  for i in range(2, 10):
    (tmp_path / f'{i}.mp4').touch()
  source = open_source(path)
  check_paths(source, 0.2)
  (told,) = warnings
  assert told.startswith('2 of 10 files do not exist: ') and '/1.mp4. Others will' in told
  with pytest.raises(UserError, match='2 of 10 files do not exist.*0.mp4.*1.mp4'):
    check_paths(source, 0.1)
  nothing = open_source(path, root='/nowhere')
  with pytest.raises(UserError, match=r'10 of 10 .*/nowhere/4.mp4, \.\.\.') as e:
    check_paths(nothing, 1.0)
  assert '5.mp4' not in str(e.value)
  (tmp_path / 'frames').mkdir()
  with pytest.raises(UserError, match=r'/frames\. That is a folder: .* ends in / in lists'):
    check_paths(open_source(_list(tmp_path, 'frames 0\n')), 0.0)
  check_paths(open_source(_list(tmp_path, 'frames/ 0\n')), 0.0)
  check_paths(open_source('synthetic:val'), 0.0)


def test_of_many_files_a_sample_is_looked_for(tmp_path, monkeypatch):
  monkeypatch.setattr('vmae_jax.data.sources.SAMPLE', 100)
  path = _list(tmp_path, ''.join(f'{i % 5}.mp4 0\n' for i in range(10_000)))
  for i in range(4):
    (tmp_path / f'{i}.mp4').touch()
  looked, real = [], storage.missing
  monkeypatch.setattr(
    storage, 'missing', lambda paths, **more: (looked.append(paths), real(paths, **more))[1]
  )
  check_paths(open_source(path), 0.4)
  with pytest.raises(UserError, match=r'of 100 files, a sample of 10000, do not exist'):
    check_paths(open_source(path), 0.05)
  assert looked[0] == looked[1] and len(looked[0]) == 100
  monkeypatch.setattr(peers, 'is_first', lambda: False)  # The first one of a run looks for them.
  check_paths(open_source(path), 1.0)
  assert len(looked[2]) == 16


def test_a_long_list_is_read_in_parts(tmp_path, monkeypatch):
  """Plain lines many at a time, and those among them that are not."""
  monkeypatch.setattr('vmae_jax.data.lists._AT_ONCE', 100)
  written, expected = [], []
  for i in range(60):
    path, label = f'vidéos/clip {i}, {i}.MP4', i % 7 - 1
    line = {20: f'  "{path}" {label}', 30: f'{path},{label} ', 40: f'# no {path} {label}'}.get(
      i, f'{path}\t{label}'
    )
    written += [line] + [''] * (i % 13 == 0)
    if i != 40:
      expected.append((f'{tmp_path}/{path}', label))
  (tmp_path / 'a.txt').write_bytes('\r\n'.join(written).encode())
  source = open_source(str(tmp_path / 'a.txt'))
  assert [(e.path, e.label) for e in source.entries] == expected
  assert [(source.name(i), source.label(i)) for i in range(len(source))] == expected
  (tmp_path / 'wrong.txt').write_text('\n'.join([*written[:40], 'a.mp4 1 2', *written[40:]]))
  with pytest.raises(UserError, match='line 41: '):
    open_source(str(tmp_path / 'wrong.txt'))
