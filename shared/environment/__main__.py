"""Makes .venv ready: `python3 -m shared.environment`, from the checkout's folder.

This file and interpreter.py are read by whatever python3 there is, so they keep to syntax that old ones know.
"""

import os
import sys

from shared.environment import interpreter


def main():
    """Sets up .venv by this Python, or hands over to one that the project supports. Returns the exit status."""
    if interpreter.supports(sys.version_info[:2]):
        from shared.environment import installation

        return installation.main()
    found = interpreter.find()
    if found is None:
        sys.stderr.write(interpreter.advice(sys.version_info[:2]) + "\n")
        return 1
    os.execv(found, [found, "-m", "shared.environment"] + sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
