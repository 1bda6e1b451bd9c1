"""A sweep's studies in processes: one worker in this process, several on this machine, or actors of a Ray cluster.

:mod:`~asyncopt.cli.workers.worker` runs studies, whatever process it is in. :mod:`~asyncopt.cli.workers.crew` hands
them out to members, each a :mod:`~asyncopt.cli.workers.hand` in a process of its own or an
:mod:`~asyncopt.cli.workers.actor`; the two :mod:`~asyncopt.cli.workers.talk` in JSON lines.
"""
