"""Objects, figures and explorers that once showed something else without a word. Oracles: scipy's
labels, loops over pixels, the texts of the figures."""
import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
from properties import examples
from scipy import ndimage

from segbook.errors import SegbookError
from segbook.objects import separate_objects

# ---- objects

DIAGONAL = np.pad(np.kron(np.eye(3, dtype=int), np.ones((2, 2), int)), 2)


def check_parted(found, inside):
    pieces, n = ndimage.label(inside)
    assert ((found > 0) == inside).all() and len(np.unique(found[found > 0])) >= n
    for i in range(1, found.max(initial=0) + 1): assert len(np.unique(pieces[found == i])) == 1


@pytest.mark.parametrize('mask,n', [(np.eye(2, dtype=int), 2), (DIAGONAL, 3)])
@pytest.mark.parametrize('by', ['distance', 'probability', 'components'])
def test_pieces_that_meet_at_a_corner_stay_apart(mask, n, by):
    found = separate_objects(mask*.9 if by == 'probability' else mask, by)
    assert found.max() == n
    check_parted(found, mask > 0)


@examples(60)
@given(arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14))),
    st.sampled_from(['distance', 'probability']), st.floats(.01, 2))
def test_parting_never_merges_components(inside, by, depth):
    p = np.where(inside, .6 + .4*np.sin(np.arange(inside.size)).reshape(inside.shape)**2, 0)
    check_parted(separate_objects(p if by == 'probability' else inside, by, depth=depth), inside)
