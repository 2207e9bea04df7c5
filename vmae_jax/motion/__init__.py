"""Motion between the frames of a clip: optical flow, and what follows it."""
