#!/bin/sh
# setup.sh ENVIRONMENT...: finds a Python of 3.10-3.13 and lets setup_env.py make the environments named.
# PYTHON=python3.12 chooses the interpreter; else .venv's own is taken, else the first one that fits.
here=$(dirname "$0")
version='import sys; print("%d.%d" % sys.version_info[:2])'
fits='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'
has_venv='import ensurepip, venv'

if [ -n "$PYTHON" ]; then
    if ! "$PYTHON" -c '' >/dev/null 2>&1; then
        echo "PYTHON=$PYTHON: this command does not start a Python. Expected the name or path of a Python 3.10-3.13," \
             "for example PYTHON=python3.12; see 'command -v python3.12', or install it." >&2
        exit 1
    fi
    if ! "$PYTHON" -c "$fits"; then
        echo "PYTHON=$PYTHON is Python $("$PYTHON" -c "$version"). Expected 3.10, 3.11, 3.12 or 3.13: name another one." >&2
        exit 1
    fi
    found=$PYTHON
else
    for p in .venv/bin/python python3 python3.13 python3.12 python3.11 python3.10 python; do
        "$p" -c "$fits" >/dev/null 2>&1 || continue
        if "$p" -c "$has_venv" >/dev/null 2>&1; then found=$p; break; fi
        bare=${bare:-$p}
    done
    found=${found:-$bare}
fi
if [ -z "$found" ]; then
    echo "No Python 3.10-3.13 found (python3 is: $(python3 -V 2>&1 || echo missing)). Install one, for example with" \
         "'apt-get install python3 python3-venv', or name it: PYTHON=/path/to/python3.12 make test" >&2
    exit 1
fi
exec "$found" "$here/setup_env.py" "$@"
