"""What a run costs: time, chips and the work of hosts, computed from a compiled step."""

from typing import NamedTuple


class Feed(NamedTuple):
  """What is assumed about the data."""

  decode_rate: float  # Videos from which one core decodes a clip in a second; repeats cost nothing.
  video_bytes: float  # Bytes of a video file.
  repeats: int  # Clips cut from one decoded video.
  clip_bytes: int  # Bytes sent to the device for each clip.


def speed(
  *,
  clip_flops: int,
  batch: int,
  devices: int,
  sent: float,
  peak: float | None,
  network: float | None,
  mfu: float,
  counted: float | None = None,
) -> dict[str, float | None]:
  """Seconds of a step: lower bounds from arithmetic and from network, and the expected time.

  Args:
    clip_flops: Floating-point operations of a training step for one clip.
    batch: Clips in a step.
    devices: The number of devices.
    sent: Bytes that each device sends in a step.
    peak: FLOP/s of a device, or None if unknown.
    network: Bytes per second that a device can send, or None if unknown.
    mfu: The share of the peak that the step is expected to reach if `counted` is None.
    counted: Seconds of a step by the compiler's own count, or None if there is none.

  Returns:
    Values that cannot be computed are None. `mfu` is the share of the peak that follows from
    `step_seconds`. The time of the network is not added: either it overlaps with arithmetic, or it
    is a reason why a step does not reach the peak.
  """
  arithmetic = peak and clip_flops * batch / devices / peak
  step = max(counted, arithmetic or 0.0) if counted else arithmetic and arithmetic / mfu
  return {
    'arithmetic_seconds': arithmetic,
    'network_seconds': network and sent / network,
    'step_seconds': step,
    'mfu': step and arithmetic and arithmetic / step,
    'clips_per_second': step and batch / step,
  }


def cost(*, step_seconds: float, steps: int, devices: int) -> dict[str, int | float]:
  """Hours and chip-hours of a run, without start-up and evaluation."""
  hours = step_seconds * steps / 3600
  return {'steps': steps, 'hours': hours, 'chip_hours': hours * devices}


def feeding(*, clips_per_second: float, hosts: int, feed: Feed) -> dict[str, float]:
  """What each host needs so that devices never wait: cores, and bytes per second read and sent."""
  videos = clips_per_second / feed.repeats / hosts
  return {
    'cores': videos / feed.decode_rate,
    'read_bytes_per_second': videos * feed.video_bytes,
    'transfer_bytes_per_second': clips_per_second / hosts * feed.clip_bytes,
  }
