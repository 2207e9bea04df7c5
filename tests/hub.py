"""A small local server of the Hub's protocol, as far as huggingface_hub uses it, in memory.

Written from what that library sends and accepts; the library is the client in the tests.
"""

import base64
import contextlib
import hashlib
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = 'hf_secret'
SHA = hashlib.sha1(b'the only commit').hexdigest()


class Hub:
  """`repositories`: OWNER/NAME -> name of a file -> bytes. Those in `private` ask for TOKEN."""

  def __init__(self):
    self.repositories, self.private, self.failing = {}, set(), False
    handler = type('Handler', (_Handler,), {'hub': self})
    self._server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    self.url = f'http://127.0.0.1:{self._server.server_port}'

  def __enter__(self):
    threading.Thread(target=self._server.serve_forever, daemon=True).start()
    return self

  def __exit__(self, *_):
    self._server.shutdown()
    self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'

  def log_message(self, *_):
    pass

  def answer(self, code, body=b'', **headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    self.send_response(code)
    for name, value in {'Content-Length': len(data), **headers}.items():
      self.send_header(name.replace('_', '-'), str(value))
    self.end_headers()
    if self.command != 'HEAD':
      with contextlib.suppress(BrokenPipeError):
        self.wfile.write(data)

  def refuse(self, code, kind):
    self.answer(code, {'error': kind}, X_Error_Code=kind, X_Error_Message=kind)

  @property
  def login(self):
    return self.headers.get('Authorization') == f'Bearer {TOKEN}'

  def repository(self, parts):
    """The files of a repository; if it must not be seen, answers so and returns None."""
    name = '/'.join(parts[:2])
    if name in self.hub.repositories and (name not in self.hub.private or self.login):
      return self.hub.repositories[name]
    # As the real Hub, which does not tell private from missing repositories.
    self.refuse(404 if self.login else 401, 'RepoNotFound')
    return None

  def do_GET(self):
    path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
    parts = path.strip('/').split('/')
    if self.hub.failing:
      return self.answer(503)
    if parts[:2] == ['api', 'whoami-v2']:
      who = {'type': 'user', 'name': 'me', 'orgs': [], 'auth': {}}
      return self.answer(200, who) if self.login else self.refuse(401, 'Unauthorized')
    files = self.repository(parts[2:] if parts[0] == 'api' else parts)
    if files is None:
      return None
    if parts[0] == 'api':
      revision = parts[5] if len(parts) > 5 else 'main'
      if revision not in ('main', SHA):
        return self.refuse(404, 'RevisionNotFound')
      if len(parts) > 4 and parts[4] == 'tree':
        tree = [
          {'type': 'file', 'path': name, 'size': len(data), 'oid': hashlib.sha1(data).hexdigest()}
          for name, data in files.items()
        ]
        return self.answer(200, tree)
      siblings = [{'rfilename': name} for name in files]
      return self.answer(
        200, {'id': '/'.join(parts[2:4]), 'sha': SHA, 'siblings': siblings, 'private': False}
      )
    if parts[3] not in ('main', SHA):  # OWNER/NAME/resolve/REVISION/FILE
      return self.refuse(404, 'RevisionNotFound')
    name = '/'.join(parts[4:])
    if name not in files:
      return self.refuse(404, 'EntryNotFound')
    etag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
    return self.answer(200, files[name], ETag=etag, X_Repo_Commit=SHA)

  do_HEAD = do_GET

  def body(self):
    """The body of a request with a length or in chunks."""
    if self.headers.get('Transfer-Encoding') != 'chunked':
      return self.rfile.read(int(self.headers.get('Content-Length', 0)))
    data = b''
    while size := int(self.rfile.readline(), 16):
      data += self.rfile.read(size)
      self.rfile.readline()
    self.rfile.readline()
    return data

  def do_POST(self):
    parts, body = urllib.parse.urlparse(self.path).path.strip('/').split('/'), self.body()
    if not self.login:
      return self.refuse(401, 'Unauthorized')
    if parts == ['api', 'repos', 'create']:
      asked = json.loads(body)
      name = f'{asked.get("organization") or "me"}/{asked["name"]}'
      if not name.startswith('me/'):
        return self.refuse(403, 'Forbidden')
      self.hub.repositories.setdefault(name, {})
      if asked.get('private') or asked.get('visibility') == 'private':
        self.hub.private.add(name)
      return self.answer(200, {'url': f'{self.hub.url}/{name}', 'name': name})
    if parts == ['api', 'validate-yaml']:
      header = json.loads(body)['content'].split('---\n')[1]
      fields = dict(line.split(': ', 1) for line in header.splitlines())
      problems = [] if {'license', 'tags'} <= fields.keys() else [{'message': 'no license'}]
      return self.answer(400 if problems else 200, {'errors': problems, 'warnings': []})
    files = self.repository(parts[2:])
    if files is None:
      return None
    if parts[4] == 'preupload':
      asked = json.loads(body)['files']
      found = [{'path': f['path'], 'uploadMode': 'regular', 'shouldIgnore': False} for f in asked]
      return self.answer(200, {'files': found})
    for line in map(json.loads, body.splitlines()):
      if line['key'] == 'file':
        files[line['value']['path']] = base64.b64decode(line['value']['content'])
    url = f'{self.hub.url}/{"/".join(parts[2:4])}/commit/{SHA}'
    return self.answer(200, {'success': True, 'commitOid': SHA, 'commitUrl': url})
