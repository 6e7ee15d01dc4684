"""
The program ``ghostd``: a command line and a configuration in front of a daemon.

It owns what is typed, what stands in ``ghostd.toml`` and in the environment, and what
the three come to. It decides nothing about daemons: in the end it makes one, with
keywords, and has it obey a command.

`table` says what can be set, `config` what was set and where, `command` reads the
command line (the only module that needs click), `plan` does what came of it, and
`develop` is ``--reload``.

The process that is typed becomes the manager, and a manager imports the standard
library only. So the command line is read in a child that ends when it is read; what
it comes to is written back through a pipe.
"""
