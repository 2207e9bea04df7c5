"""A local server of Google's protocol for buckets, which can be made to fail."""

import functools
import http
import http.server
import threading

from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.server import RequestHandler, Storage


class Store:
  """The server, with a bucket called `bucket`; serves until the block is left.

  Attributes:
    url: Where it listens.
    answer: The HTTP status that it gives to every request, such as 503; 0 while it works.
    storage: Its content.
  """

  def __enter__(self) -> 'Store':
    self.answer, self.storage = 0, Storage(use_memory_fs=True)
    buckets.create_bucket('bucket', self.storage)
    self._server = _Server(('127.0.0.1', 0), functools.partial(_Handler, self))
    self.url = f'http://127.0.0.1:{self._server.server_port}'
    threading.Thread(target=self._server.serve_forever, daemon=True).start()
    return self

  def __exit__(self, *_):
    self._server.shutdown()
    self._server.server_close()

  def names(self) -> list[str]:
    """The names of the objects in the bucket."""
    return list(self.storage.objects.get('bucket', ()))

  def environment(self) -> dict[str, str]:
    """Variables that make processes use this server in place of Google's."""
    return {
      'STORAGE_EMULATOR_HOST': self.url,
      'TENSORSTORE_GCS_HTTP_URL': self.url,
      'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'none',  # Of tensorstore.
      'FSSPEC_GS_TOKEN': 'anon',  # Of gcsfs, when fsspec is imported.
      'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',  # The server has no gRPC.
    }


class _Server(http.server.HTTPServer):
  request_queue_size = 128  # A client that finds it full waits for a second.

  def handle_error(self, *_):  # A client that has gone.
    pass


class _Handler(RequestHandler):
  def __init__(self, store: Store, *args):
    self._store = store
    super().__init__(store.storage, *args)

  def parse_request(self) -> bool:
    if not super().parse_request():
      return False
    # The library cannot move; gcsfs then copies and deletes, but not before half a minute of 501.
    if answer := self._store.answer or 405 * ('/moveTo/' in self.path):
      self.rfile.read(int(self.headers.get('Content-Length', 0)))
      self.send_error(answer)
    return not answer


def _generation(request, storage, name: str) -> str:
  there = storage.objects.get(request.params['bucket_name'], {})
  return there[name]['generation'] if name in there else '0'


def _upload_if(upload, request, response, storage):
  """What the library leaves out of the protocol: a write only over what the writer knows."""
  meta = request.data['meta'] if upload is _MULTIPART else {}
  name = request.query.get('name', [meta.get('name')])[0]
  with _LOCK:
    known = request.query.get('ifGenerationMatch', [None])[0]
    if known not in (None, _generation(request, storage, name)):
      response.status = http.HTTPStatus.PRECONDITION_FAILED
    else:
      upload(request, response, storage)


def _download_if(download, request, response, storage):
  generation = _generation(request, storage, request.params['object_id'])
  response['x-goog-generation'] = generation
  if request.query.get('ifGenerationNotMatch') == [generation]:
    response.status = http.HTTPStatus.NOT_MODIFIED
  else:
    download(request, response, storage)


_LOCK, _MULTIPART = threading.Lock(), objects._multipart_upload
objects._multipart_upload = functools.partial(_upload_if, objects._multipart_upload)
objects._media_upload = functools.partial(_upload_if, objects._media_upload)
objects.download = functools.partial(_download_if, objects.download)
