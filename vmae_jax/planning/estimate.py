"""What a run needs and costs on a TPU slice, GPUs or the local devices: numbers and a table."""

from typing import Any

import jax
import psutil

from vmae_jax import chips, sharding
from vmae_jax import config as config_lib
from vmae_jax.data.sources import open_source
from vmae_jax.errors import UserError
from vmae_jax.planning import aot, plan
from vmae_jax.planning.program import summarise
from vmae_jax.planning.slices import slice_devices
from vmae_jax.training.loop import count_steps

GIB = 2**30
MFU = 0.4  # Assumed for a step if the compiler does not count cycles.


def estimate(
  config,
  topology: str,
  *,
  mfu: float | None,
  videos: int | None,
  decode_rate: float,
  video_bytes: float,
) -> tuple[dict[str, Any], aot.CompiledStep]:
  """Compiles the step of a config and computes what a run needs.

  Args:
    topology: A name that `slice_devices` takes, or local.
    mfu: Share of the peak that the step is expected to reach; None: from the cycles that the
      compiler counts, or MFU if it counts none.
    videos: The size of the training set; None: that of data.train, if it is given.
    decode_rate: Clips that a core of a host decodes in a second.
    video_bytes: Bytes of a video file.

  Returns:
    All numbers, for JSON and `table`; and the compiled step.

  Raises:
    UserError: a topology is unknown, or the config cannot work on it.
  """
  config, mesh, limit = prepare(config, topology)
  steps = _steps(config, videos)
  step, method = aot.compile_step(config, mesh, limit=limit)
  devices, device = mesh.size, mesh.devices.flat[0]
  chip, (peak, network) = chips.CHIPS.get(device.device_kind), published(mesh.devices.flat)
  hosts = len({d.process_index for d in mesh.devices.flat})
  slices = sharding.count_slices(mesh.devices.flat)
  collectives = summarise(step.collectives)
  clip_flops, cycles = method.flops(), sum(step.cycles.values())
  counted = cycles / chip.clock if mfu is None and cycles and chip and chip.clock else None
  sent = sum((row['sent'] for row in collectives.values()), 0.0)
  work = dict(clip_flops=clip_flops, batch=config.batch_size, devices=devices, sent=sent)
  speed = plan.speed(**work, peak=peak, network=network, mfu=mfu or MFU, counted=counted)
  images = [x for x in aot.batch_shapes(config, method, mesh).values() if x.ndim > 1]
  feed = plan.Feed(
    decode_rate=decode_rate,
    video_bytes=video_bytes,
    repeats=config.data.repeats,
    # Crops are sent before they are resized, with sides of up to 8/7: see `ClipSampler.shape`.
    clip_bytes=sum(x.size * x.dtype.itemsize for x in images) * 64 // 49 // config.batch_size,
  )
  rate, seconds = speed['clips_per_second'], speed['step_seconds']
  kept = ('compiler', 'fits', 'memory', 'cycles', 'kernels', 'resharded')
  result = {
    'method': config.method,
    'size': config.model.size,
    'topology': topology,
    'device': device.device_kind,
    'devices': devices,
    'hosts': hosts,
    'slices': slices,
    'mesh': dict(mesh.shape),
    'batch_size': config.batch_size,
    'model': {key: config.model[key] for key in ('dtype', 'attention', 'scan', 'remat')},
    'compile_seconds': step.seconds,
    **{name: getattr(step, name) for name in kept},
    'clip_flops': clip_flops,
    'target_flops': method.target_flops(),
    'compiled_clip_flops': step.flops and step.flops * devices / config.batch_size,
    'collectives': collectives,
    'peak_flops': peak,
    'network_bytes_per_second': network,
    'source': chip and chip.source,
    'clock': chip and chip.clock,
    'counted_seconds': counted,
    'speed': speed,
    'cost': steps and seconds and plan.cost(step_seconds=seconds, steps=steps, devices=devices),
    'feed': feed._asdict(),
    'host': rate and plan.feeding(clips_per_second=rate, hosts=hosts, feed=feed),
  }
  return result, step


def published(devices) -> tuple[float | None, float | None]:
  """Published FLOP/s of a device, and bytes per second that it can send; None if not known.

  The network between slices, or between hosts of GPUs, is not known.
  """
  devices = list(devices)
  chip = chips.CHIPS.get(devices[0].device_kind)
  if chip is None:
    return None, None
  hosts = len({d.process_index for d in devices}) if devices[0].platform == 'gpu' else 1
  one = hosts == sharding.count_slices(devices) == 1
  return chip.flops, chip.network if one else None


def prepare(config, topology: str):
  """The config, resolved and checked for the topology; the mesh; the bytes of a device's memory."""
  devices = jax.devices() if topology == 'local' else slice_devices(topology)
  config = aot.resolve(config, devices[0].platform)
  mesh = sharding.make_mesh(**config.mesh, devices=devices)
  config_lib.check(config, devices=mesh.shape['data'] * mesh.shape['fsdp'])
  return config, mesh, _memory_limit(devices)


def _memory_limit(devices: list) -> int:
  """Bytes of a device: as the device reports, as published, or a CPU's share of the machine's."""
  if devices[0].platform == 'cpu':
    return psutil.virtual_memory().total // len(devices)
  chip = chips.CHIPS.get(devices[0].device_kind)
  if devices[0].platform == 'tpu' and chip:
    return chip.memory
  try:
    limit = (devices[0].memory_stats() or {}).get('bytes_limit')
  except jax.errors.JaxRuntimeError:  # Not present; launch/xla_flags.sh gives JAX 0.9 of it.
    limit = chip and chip.memory and int(0.9 * chip.memory)
  if limit is None:
    raise UserError(
      f'the memory of {devices[0].device_kind} is not known: add the device to vmae_jax/chips.py.'
    )
  return limit


def _steps(config, videos: int | None) -> int | None:
  """The number of steps of the run, or None if the size of the training set is not known."""
  if not videos and config.data.train:
    videos = len(open_source(config.data.train, root=config.data.root))
  return count_steps(config, videos=videos or 0) if videos or config.steps else None


def table(result: dict[str, Any]) -> str:
  """The numbers of `estimate` as text."""
  memory, speed, model = dict(result['memory']), result['speed'], result['model']
  total, limit = memory.pop('all'), memory.pop('limit')
  axes = ' x '.join(f'{name} {size}' for name, size in result['mesh'].items())
  clips = result['batch_size'] / result['devices']
  slices = result['slices']
  lines = [
    f'{result["method"]}, size {result["size"]}: {result["batch_size"]:,} clips a step, '
    f'{clips:g} a chip, on {result["topology"]}: {result["devices"]} x {result["device"]}, '
    f'{f"{slices} slices, " if slices > 1 else ""}{_count(result["hosts"], "host")}, mesh {axes}',
    ', '.join(f'{key} {value}' for key, value in model.items())
    + f'; compiled in {result["compile_seconds"]:.0f} s ({result["compiler"]})',
    '',
    'memory of a chip',
  ]
  lines += [f'  {kind:36}{size_text(size)}' for kind, size in memory.items()]
  verdict = 'fits' if result['fits'] else 'DOES NOT FIT'
  lines += [f'  {"in all":36}{size_text(total)} of {size_text(limit).strip()}: {verdict}', '']
  whole, apart = result['clip_flops'] / 1e9, result['target_flops'] / 1e9
  lines.append(
    f'GFLOP a clip: {whole:,.1f}, of which {whole - apart:,.1f} are the model and {apart:,.1f} '
    'flow, targets and frozen networks'
  )
  if counted := result['compiled_clip_flops']:
    lines[-1] += f' (the compiler counts {counted / 1e9:,.1f}, bodies of loops once)'
  if result['fits']:
    lines += ['', 'between chips, in a step     operations     runs       MB   MB sent by each']
    for kind, row in result['collectives'].items():
      lines.append(
        f'  {kind:26}{row["operations"]:11}{row["runs"]:9}{row["bytes"] / 1e6:9.1f}'
        f'{row["sent"] / 1e6:17.1f}'
      )
    if not result['collectives']:
      lines.append('  nothing')
  if result['resharded']:
    lines.append(f'{result["resharded"]} arrays of the state change their place in a step.')
  if kernels := result['kernels']:
    runs = ', '.join(f'{name} {count} times' for name, count in kernels.items())
    lines += ['', f"kernels beside the compiler's own: {runs}"]
  if cycles := result['cycles']:
    total = sum(cycles.values())
    lines += [
      '',
      'cycles of a core in a step, as the compiler counts (no measurement; of attention, where it '
      f'is a kernel, those of a v5e): {total / 1e6:.0f} M',
      *(f'  {part:36}{count / total:8.0%}' for part, count in cycles.items()),
    ]
  lines += ['', *_time(result, speed)]
  return '\n'.join(lines)


def _count(number: int, thing: str) -> str:
  return f'{number} {thing}{"s" if number > 1 else ""}'


def size_text(count: int) -> str:
  return f'{count / GIB:8.2f} GiB' if count >= GIB else f'{count / 2**20:8.1f} MiB'


def _time(result: dict[str, Any], speed: dict[str, float | None]) -> list[str]:
  if speed['step_seconds'] is None:
    return [f'No published peak of {result["device"]} is known: there is no estimate of time.']
  lines = [
    f'a step takes at least {speed["arithmetic_seconds"] * 1e3:.1f} ms of arithmetic '
    f'({result["peak_flops"] / 1e12:.0f} TFLOP/s a chip)'
  ]
  if result['fits'] and speed['network_seconds'] is not None:
    lines[-1] += (
      f' and {speed["network_seconds"] * 1e3:.1f} ms of network '
      f'({result["network_bytes_per_second"] / 1e9:.0f} GB/s each way a chip)'
    )
  lines.append(f'  published: {result["source"]}')
  expected = 'at an assumed MFU (--mfu)'
  if result['counted_seconds']:
    expected = (
      f'by these cycles at {result["clock"] / 1e9:.2f} GHz (without gathers and what chips wait '
      'for each other)'
    )
  lines.append(f'{expected}: {speed["step_seconds"] * 1e3:.1f} ms a step, ')
  lines[-1] += f'{speed["mfu"]:.0%} MFU, {speed["clips_per_second"]:,.0f} clips/s'
  if cost := result['cost']:
    lines.append(
      f'  {cost["steps"]:,} steps: {cost["hours"]:,.1f} hours, {cost["chip_hours"]:,.0f} chip-hours'
    )
  else:
    lines.append('  hours: give --videos=N, the number of training videos')
  host, feed = result['host'], result['feed']
  lines += [
    f'each of {_count(result["hosts"], "host")}: {host["cores"]:,.1f} cores that decode '
    f'{feed["decode_rate"]:g} clips/s each (--decode_rate), reads '
    f'{host["read_bytes_per_second"] / 1e6:,.0f} MB/s of files of {feed["video_bytes"] / 1e6:g} MB '
    f'(--video_mb), moves {host["transfer_bytes_per_second"] / 1e6:,.0f} MB/s to its chips',
  ]
  return lines
