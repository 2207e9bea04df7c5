"""From a compiled step to what a run costs: time, chips, and the hosts that feed it."""

from typing import NamedTuple


class Feed(NamedTuple):
  """What is assumed of the data."""

  decode_rate: float  # Clips that one core decodes in a second, the first from each video.
  video_bytes: float  # Of a file.
  repeats: int  # Clips cut from one decoded video.
  clip_bytes: int  # That cross to the device for one clip.


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
  """Seconds of a step: the least by arithmetic and by network, and those to expect.

  Args:
    clip_flops: Of a training step, for one clip.
    sent: Bytes that each device sends in a step.
    peak: FLOP/s of a device, or None if unknown.
    network: Bytes a second that a device can send, or None if unknown.
    mfu: The share of the peak that the step is expected to reach where `counted` is None.
    counted: Seconds of a step by the compiler's own count, or None if it counts none.

  Returns:
    What cannot be told is None. `mfu` is the share of the peak that `step_seconds` means. The
    network's floor is not added: it hides behind arithmetic or is what keeps a step from reaching
    the MFU.
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
  """Hours of a run and of all its chips together, without start-up and evaluation."""
  hours = step_seconds * steps / 3600
  return {'steps': steps, 'hours': hours, 'chip_hours': hours * devices}


def feeding(*, clips_per_second: float, hosts: int, feed: Feed) -> dict[str, float]:
  """What each host must do so that the devices never wait: cores, disk or network, and bus."""
  videos = clips_per_second / feed.repeats / hosts
  return {
    'cores': videos / feed.decode_rate,
    'read_bytes_per_second': videos * feed.video_bytes,
    'transfer_bytes_per_second': clips_per_second / hosts * feed.clip_bytes,
  }
