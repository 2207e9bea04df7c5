"""Made-up trees of the layouts in which data sets arrive."""

import json
from pathlib import Path

import pytest

from vmae_jax.errors import UserError
from vmae_jax.prepare.layouts import Tree, folder, hmdb51, kinetics, ssv2, ucf101
from vmae_jax.prepare.prepare_set import LAYOUTS, hold_out


def touch(root: Path, *names: str):
  for name in names:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).touch()


def told(layout, root: Path):
  """Split -> (id, path below the root, label) of each video."""
  return {
    name: [(v.id, str(Path(v.path).relative_to(root)), v.label) for v in split.videos]
    for name, split in layout.splits.items()
  }


# -- Kinetics

HEAD = 'label,youtube_id,time_start,time_end,split\n'


def kinetics_tree(root: Path):
  """Two naming forms in folders of classes, one in none, one file that is missing."""
  touch(
    root,
    'train/zumba/-_abc_DEF12_000003_000013.mp4',
    'train/air drumming/xyz_0001__9_7_17.mkv',
    'train/onlyonce123.webm',
    'val/answering questions/-_abc_DEF12_000020_000030.mp4',
    'test/tttttttttt0_000000_000010.mp4',
  )
  (root / 'annotations').mkdir()
  (root / 'annotations/kinetics-400_train.csv').write_text(
    HEAD
    + 'zumba,-_abc_DEF12,3,13,train\n'
    + '"air drumming",xyz_0001__9,7.0,17.0,train\n'
    + 'air drumming,onlyonce123,0,10,train\n'
    + 'zumba,gone_000000,0,10,train\n'
  )
  (root / 'annotations/kinetics-400_val.csv').write_text(
    HEAD + 'answering questions,-_abc_DEF12,20,30,validate\n'
  )
  (root / 'annotations/kinetics-400_test.csv').write_text(
    'youtube_id,time_start,time_end,split\ntttttttttt0,0,10,test\n'
  )
  (root / 'other_train.csv').write_text('path,label\na,0\n')  # No list of Kinetics.


def test_kinetics(tmp_path):
  kinetics_tree(tmp_path)
  tree = Tree(tmp_path)
  layout = kinetics(tree, tree)
  assert layout.classes == ('air drumming', 'answering questions', 'zumba')
  assert told(layout, tmp_path) == {
    'train': [
      ('-_abc_DEF12_000003_000013', 'train/zumba/-_abc_DEF12_000003_000013.mp4', 2),
      ('xyz_0001__9_000007_000017', 'train/air drumming/xyz_0001__9_7_17.mkv', 0),
      ('onlyonce123_000000_000010', 'train/onlyonce123.webm', 0),
    ],
    'val': [
      (
        '-_abc_DEF12_000020_000030',
        'val/answering questions/-_abc_DEF12_000020_000030.mp4',
        1,
      )
    ],
    'test': [('tttttttttt0_000000_000010', 'test/tttttttttt0_000000_000010.mp4', -1)],
  }
  assert layout.splits['train'].missing == ['gone_000000_000000_000010']


def test_kinetics_takes_a_film_only_where_it_is_one_clip(tmp_path):
  touch(tmp_path, 'v/film.mp4')
  (tmp_path / 'train.csv').write_text(HEAD + 'a,film,0,10,train\nb,film,10,20,train\n')
  tree = Tree(tmp_path)
  split = kinetics(tree, tree).splits['train']
  assert not split.videos and len(split.missing) == 2


def test_kinetics_prefers_replacements_of_broken_files(tmp_path):
  touch(tmp_path, 'a/f_000000_000010.mp4', 'replacement_for_corrupted_k400/f_000000_000010.mp4')
  (tmp_path / 'train.csv').write_text(HEAD + 'a,f,0,10,train\n')
  tree = Tree(tmp_path)
  (video,) = kinetics(tree, tree).splits['train'].videos
  assert 'replacement' in video.path


def test_kinetics_mistakes(tmp_path):
  tree = Tree(tmp_path)
  with pytest.raises(UserError, match='--annotations'):
    kinetics(tree, tree)
  touch(tmp_path, 'a/train.csv', 'b/train.csv')
  for name in 'ab':
    (tmp_path / name / 'train.csv').write_text(HEAD)
  tree = Tree(tmp_path)
  with pytest.raises(UserError, match='several CSV files of the split train'):
    kinetics(tree, tree)
  (tmp_path / 'a/train.csv').write_text(HEAD + 'a,f,zero,10,train\n')
  with pytest.raises(UserError, match='train, line 2'):
    kinetics(tree, Tree(tmp_path / 'a'))
  with pytest.raises(UserError, match='no folder'):
    Tree(tmp_path / 'none')


# -- Something-Something V2


def ssv2_tree(root: Path, prefix: str = 'something-something-v2-'):
  touch(root, '20bn-something-something-v2/1.webm', '20bn-something-something-v2/22.webm')
  touch(root, '20bn-something-something-v2/333.webm')
  labels = {'Moving something up': '1', 'Holding something next to something': '0'}
  train = [
    {'id': '22', 'label': 'moving pen up', 'template': 'Moving [something] up'},
    {
      'id': '1',
      'label': 'holding potato next to bottle',
      'template': 'Holding [something] next to [something]',
      'placeholders': ['potato', 'bottle'],
    },
    {'id': '4', 'template': 'Moving [something] up'},
  ]
  for name, content in (
    ('labels', labels),
    ('train', train),
    ('validation', []),
    ('test', [{'id': '333'}]),
  ):
    (root / f'{prefix}{name}.json').write_text(json.dumps(content))


@pytest.mark.parametrize('prefix', ['something-something-v2-', ''])
def test_ssv2(tmp_path, prefix):
  ssv2_tree(tmp_path, prefix)
  tree = Tree(tmp_path)
  layout = ssv2(tree, tree)
  assert layout.classes == ('Holding something next to something', 'Moving something up')
  where = '20bn-something-something-v2'
  assert told(layout, tmp_path) == {
    'train': [('22', f'{where}/22.webm', 1), ('1', f'{where}/1.webm', 0)],
    'val': [],
    'test': [('333', f'{where}/333.webm', -1)],
  }
  assert layout.splits['train'].missing == ['4']


@pytest.mark.parametrize(
  'name, content, message',
  [
    ('labels', '{"a": "0", "b": "2"}', 'numbers from 0 to 1'),
    ('labels', '[]', 'holds no dict'),
    ('train', '[', 'is no JSON'),
    ('train', '[{"id": "1", "template": "Eating [something]"}]', "no class 'Eating something'"),
  ],
)
def test_ssv2_mistakes(tmp_path, name, content, message):
  ssv2_tree(tmp_path)
  (tmp_path / f'something-something-v2-{name}.json').write_text(content)
  tree = Tree(tmp_path)
  with pytest.raises(UserError, match=message):
    ssv2(tree, tree)


# -- UCF101


def ucf101_tree(root: Path, splits=(1, 2, 3)):
  """Three classes of three videos; split N tests the Nth video of each."""
  names = ('HandstandPushups', 'ApplyEyeMakeup', 'YoYo')  # Numbered in no order of names.
  lists = root / 'ucfTrainTestlist'
  lists.mkdir(parents=True)
  (lists / 'classInd.txt').write_text(''.join(f'{i} {n}\r\n' for i, n in enumerate(names, 1)))
  for split in splits:
    train, test = [], []
    for i, name in enumerate(names, 1):
      for k in (1, 2, 3):
        # The files of this class are spelled in their own way.
        file = f'{name}/v_{name.replace("stand", "Stand")}_g0{k}_c01.avi'
        touch(root / 'UCF-101', file)
        (test if k == split else train).append(file if k == split else f'{file} {i}')
    (lists / f'trainlist0{split}.txt').write_text('\r\n'.join(train) + '\r\n')
    (lists / f'testlist0{split}.txt').write_text('\n'.join(test) + '\n')


@pytest.mark.parametrize('split', [1, 2, 3])
def test_ucf101(tmp_path, split):
  ucf101_tree(tmp_path)
  layout = ucf101(Tree(tmp_path / 'UCF-101'), Tree(tmp_path / 'ucfTrainTestlist'), split)
  assert layout.classes == ('HandstandPushups', 'ApplyEyeMakeup', 'YoYo')
  found = told(layout, tmp_path / 'UCF-101')
  assert found['test'] == [
    (f'{folder}/v_{name}_g0{split}_c01', f'{folder}/v_{name}_g0{split}_c01.avi', label)
    for label, (folder, name) in enumerate(
      [('HandstandPushups', 'HandStandPushups'), ('ApplyEyeMakeup',) * 2, ('YoYo',) * 2]
    )
  ]
  assert [label for _, _, label in found['train']] == [0, 0, 1, 1, 2, 2]
  assert not {path for _, path, _ in found['train']} & {path for _, path, _ in found['test']}


def test_ucf101_takes_converted_files_and_counts_missing_ones(tmp_path):
  ucf101_tree(tmp_path)
  videos = tmp_path / 'UCF-101/YoYo'
  (videos / 'v_YoYo_g01_c01.avi').rename(videos / 'v_YoYo_g01_c01.mp4')
  (videos / 'v_YoYo_g02_c01.avi').unlink()
  tree = Tree(tmp_path)
  layout = ucf101(tree, tree, 1)
  assert layout.splits['test'].videos[-1].path.endswith('v_YoYo_g01_c01.mp4')
  assert layout.splits['train'].missing == ['YoYo/v_YoYo_g02_c01']


@pytest.mark.parametrize(
  'name, text, message',
  [
    ('trainlist01.txt', 'YoYo/v.avi 2\n', 'gives YoYo the number 3'),
    ('trainlist01.txt', 'NoNo/v.avi 2\n', "no class 'NoNo'"),
    ('testlist01.txt', 'v.avi\n', 'not of the form'),
    ('classInd.txt', '0 YoYo\n', 'not numbered from 1'),
    ('classInd.txt', '\n', 'not numbered from 1'),
  ],
)
def test_ucf101_mistakes(tmp_path, name, text, message):
  ucf101_tree(tmp_path, splits=(1,))
  tree = Tree(tmp_path)
  with pytest.raises(UserError, match='no file trainlist02.txt'):
    ucf101(tree, tree, 2)
  (tmp_path / 'ucfTrainTestlist' / name).write_text(text)
  with pytest.raises(UserError, match=message):
    ucf101(tree, tree, 1)


# -- HMDB51


def hmdb51_tree(root: Path):
  """Two classes of ten videos: 7 to train, 3 to test, as in the whole data set 70 and 30."""
  for name in ('sit', 'brush_hair'):
    for split in (1, 2, 3):
      lines = []
      for k in range(11):
        file = f'#{k} a;b (c)_{name}_f_cm_np1.avi'
        touch(root / 'hmdb51_org', f'{name}/{file}')
        flag = 0 if k == 10 else 2 if (k + split) % 10 < 3 else 1
        lines.append(f'{file} {flag} \n')
      path = root / 'testTrainMulti_7030_splits' / f'{name}_test_split{split}.txt'
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(''.join(lines))


@pytest.mark.parametrize('split', [1, 2, 3])
def test_hmdb51(tmp_path, split):
  hmdb51_tree(tmp_path)
  tree = Tree(tmp_path)
  layout = hmdb51(tree, tree, split)
  assert layout.classes == ('brush_hair', 'sit')
  found = told(layout, tmp_path)
  for name, label in (('brush_hair', 0), ('sit', 1)):
    tested = [k for k in range(10) if (k + split) % 10 < 3]
    trained = [k for k in range(10) if k not in tested]
    for part, wanted in (('train', trained), ('test', tested)):
      mine = [(id, path) for id, path, own in found[part] if own == label]
      stem = f'{name}/#%d a;b (c)_{name}_f_cm_np1'
      assert mine == [(stem % k, f'hmdb51_org/{stem % k}.avi') for k in wanted]
    assert (len(trained), len(tested)) == (7, 3)


def test_hmdb51_mistakes(tmp_path):
  tree = Tree(tmp_path)
  with pytest.raises(UserError, match='no files CLASS_test_split1.txt'):
    hmdb51(tree, tree, 1)
  (tmp_path / 'sit_test_split1.txt').write_text('a.avi 3\n')
  tree = Tree(tmp_path)
  with pytest.raises(UserError, match='does not end in 0, 1 or 2'):
    hmdb51(tree, tree, 1)


# -- Folders


def test_folder_of_classes(tmp_path):
  touch(tmp_path, 'b/2.mp4', 'b/1.avi', 'a b/deep/3.webm', '0.mkv', 'b/notes.txt', 'b/._1.avi')
  layout = folder(Tree(tmp_path))
  assert layout.classes == ('a b', 'b')
  assert told(layout, tmp_path) == {
    'train': [
      ('0.mkv', '0.mkv', -1),
      ('a b/deep/3.webm', 'a b/deep/3.webm', 0),
      ('b/1.avi', 'b/1.avi', 1),
      ('b/2.mp4', 'b/2.mp4', 1),
    ]
  }


def test_folder_of_splits_has_one_numbering(tmp_path):
  touch(tmp_path, 'train/b/1.mp4', 'train/c/1.mp4', 'val/a/1.mp4', 'val/c/1.mp4')
  layout = folder(Tree(tmp_path))
  assert layout.classes == ('a', 'b', 'c')
  assert told(layout, tmp_path) == {
    'train': [('b/1.mp4', 'train/b/1.mp4', 1), ('c/1.mp4', 'train/c/1.mp4', 2)],
    'val': [('a/1.mp4', 'val/a/1.mp4', 0), ('c/1.mp4', 'val/c/1.mp4', 2)],
  }
  touch(tmp_path, 'extra/1.mp4')
  with pytest.raises(UserError, match='extra/1.mp4 lies in no split'):
    folder(Tree(tmp_path))


def test_a_share_of_each_class_is_held_out(tmp_path):
  names = [f'{name}/{i}.mp4' for name, n in (('a', 10), ('b', 3), ('c', 1)) for i in range(n)]
  touch(tmp_path, *names)
  layout = folder(Tree(tmp_path))
  hold_out(layout, 0.2)
  held = {video.id for video in layout.splits['val'].videos}
  train = {video.id for video in layout.splits['train'].videos}
  assert held | train == set(names) and not held & train
  assert [sum(name.startswith(x) for name in held) for x in 'abc'] == [2, 1, 0]
  touch(tmp_path, 'a/10.mp4')  # One more: at most one held-out video changes.
  more = folder(Tree(tmp_path))
  hold_out(more, 0.2)
  assert len(held - {video.id for video in more.splits['val'].videos}) <= 1
  with pytest.raises(UserError, match='already has the splits train, val'):
    hold_out(more, 0.2)
  with pytest.raises(UserError, match='--val=1.5 is no share'):
    hold_out(folder(Tree(tmp_path)), 1.5)


def test_folder_without_videos(tmp_path):
  with pytest.raises(UserError, match='no video in the folder'):
    folder(Tree(tmp_path))


def test_sizes_of_the_whole_data_sets():
  """UCF101 has 13320 videos in each split, HMDB51 70 + 30 in each of 51 classes."""
  ucf = LAYOUTS['ucf101'].whole
  assert [a + b for a, b in zip(ucf['train'], ucf['test'], strict=True)] == [13_320] * 3
  hmdb = LAYOUTS['hmdb51'].whole
  assert set(hmdb['train']) == {51 * 70} and set(hmdb['test']) == {51 * 30}
  assert sum(LAYOUTS['ssv2'].whole[name] for name in ('train', 'val', 'test')) == 220_847
