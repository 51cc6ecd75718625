"""Failures that the command line turns into exit codes. A plain ValueError is bad usage or config: exit code 2."""


class SourceError(Exception):
    """The source, the disk or the network does not answer. Exit code 3."""


class BrokenArtefact(ValueError):
    """A file made by an earlier step is missing, corrupt or from another run. Exit code 3."""


class LeakError(Exception):
    """Two splits share a group: the one finding that stops a run. Exit code 1."""
