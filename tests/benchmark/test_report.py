"""What is told about the machine."""

import datetime
import importlib.metadata
import json
import re

from vmae_jax.benchmark import report


def test_describe():
  told = json.loads(json.dumps(report.describe()))
  assert told['machine']['cpu'] and told['machine']['cores'] >= 1
  assert told['machine']['memory_bytes'] > 2**28
  assert told['versions']['jax'] == importlib.metadata.version('jax')
  assert datetime.datetime.fromisoformat(told['date']).utcoffset() == datetime.timedelta(0)
  assert told['commit'] is None or re.fullmatch('[0-9a-f]{40}(-dirty)?', told['commit'])


def test_absent_packages_are_told(monkeypatch):
  monkeypatch.setattr(report, 'PACKAGES', ('no-such-package',))
  assert report.describe()['versions']['no-such-package'] is None
