"""Imports what training scripts import, and forks a process for each of them. Run by agent.py with its socket's path.

It stays one thread that only imports: what a script does, it does in the fork.
"""

import sys

import fork_server

sys.path.pop(0)
script = fork_server.serve(sys.argv[1])
# Only a fork comes here. The script takes this module's place, so that pickle and others find it where they look.
fork_server.take_the_place_of_main(script)
