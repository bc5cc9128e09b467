"""The DNS side: the hook's datagrams, the suffix filter, the recursor's caches."""
