"""The pure core: settings, answers and time in; marks, intervals and elements out. No socket, no clock, no I/O."""
