"""Whether the internet behind an exit answers: probes that leave by this exit and no other."""
