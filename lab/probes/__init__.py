"""Programs that run in the phone's namespace and print what they saw as JSON. They know nothing of the lab."""
