"""What the property tests share: how many examples hypothesis tries.

The suite tries few, the same ones each time; `SEGBOOK_EXAMPLES=5000` tries that many, new ones in
each run."""
import os

from hypothesis import HealthCheck, settings

ASKED = os.environ.get('SEGBOOK_EXAMPLES')


def examples(n, **kw):
    """The settings of a property test: `n` examples, or as many as SEGBOOK_EXAMPLES says; no
    limit of time, and nothing kept on disk."""
    return settings(max_examples=int(ASKED or n), derandomize=not ASKED, deadline=None,
        database=None, suppress_health_check=list(HealthCheck), print_blob=True, **kw)
