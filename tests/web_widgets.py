"""The explorers in a real browser: on the site without a kernel, in JupyterLab and in Voila. Run
by `make test-web`; not collected by `pytest tests`, since it needs a built site."""
import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import web_check
from PIL import Image
from playwright.sync_api import expect
from web_check import AXE, PATIENCE, Server, Watched, in_lab, lab, notebook

PAGE = '16_widgets.html'
base, chromium, folder = web_check.base, web_check.chromium, web_check.folder  # fixtures
DRAWN_KINDS = 'multiplications', 'Effective', 'weights add up', 'it pushes', 'Pixel accuracy'


def opened(w, base, hash=''):
    "The page of explorers, all of them alive"
    w.page.goto(base + PAGE + hash, wait_until='networkidle')
    if not hash: w.page.locator('.segbook-live').first.scroll_into_view_if_needed()
    w.page.wait_for_function("""() => [...document.querySelectorAll('.segbook-live')].every(e =>
        e.dataset.live === 'ready' && e.querySelector('canvas[data-shown], img'))""",
        timeout=PATIENCE)
    return w.page


def decoded(url):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(',')[1]))))


def pixels_of(explorer):
    "The canvas of an explorer as array [H,W,3]"
    url = explorer.locator('canvas').evaluate("c => c.toDataURL('image/png')")
    return np.asarray(Image.fromarray(decoded(url)).convert('RGB'))


def shown(explorer, what):
    explorer.locator(f'canvas[data-shown^="{what}"]').wait_for()
    return pixels_of(explorer)


def states(page):
    "The stored values of all explorers of a page"
    script = page.locator('script[type="application/vnd.jupyter.widget-state+json"]')
    return [m['state'] for m in json.loads(script.inner_text())['state'].values()]


def state_of(page, name):
    "The stored data of the explorer that holds `name`"
    return next(s['data'] for s in states(page) if name in s.get('data', {}))


def by_name(page, word):
    "The explorer whose drawing says `word`"
    has = page.locator(f'canvas[data-shown*="{word}"]')
    e = page.locator('.segbook-explorer', has=has).first
    e.wait_for(timeout=PATIENCE)
    e.evaluate('(e, word) => e.dataset.name = word', word)
    return page.locator(f'[data-name="{word}"]')  # the same one, whatever it says next


def said(e): return e.locator('canvas').get_attribute('data-shown')


def box_of(e):
    "Where an explorer's canvas stands in the window, scrolled into it"
    e.locator('canvas').scroll_into_view_if_needed()
    return e.locator('canvas').bounding_box()


def becomes(page, e, old):
    "Wait until an explorer says something else; its canvas then"
    page.wait_for_function('([c, old]) => c.dataset.shown !== old',
        arg=[e.locator('canvas').element_handle(), old])
    return pixels_of(e)


def drag(page, e, start, end):
    "Drag from one place of an explorer's canvas to another, both as parts of its width and height"
    box = box_of(e)
    (x, y), (x2, y2) = ((box['x'] + a*box['width'], box['y'] + b*box['height'])
        for a, b in (start, end))
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x2, y2, steps=4)
    page.mouse.up()


def press(page, e, role, name, key):
    e.get_by_role(role, name=name).focus()
    page.keyboard.press(key)


def numbers(e):
    return e.locator('[data-value]').evaluate_all('es => es.map(e => +e.dataset.value)')


# ---- masks

def test_mask_explorer_draws_what_python_draws(base, chromium):
    from segbook.masks import overlay
    with Watched(chromium) as w:
        page = opened(w, base)
        e, s = page.locator('.segbook-explorer').first, next(s for s in states(page)
            if 'pictures' in s)
        image, ids = (decoded(s['pictures'][0][k]) for k in ('image', 'mask'))
        grey = np.full_like(image, 200)
        assert (shown(e, '0|mask') == overlay(grey, ids, s['codes'], 1)).all()
        e.get_by_role('button', name='overlay', exact=True).click()
        assert (shown(e, '0|overlay') == overlay(image, ids, s['codes'], s['alpha'])).all()
        e.get_by_label('image').first.focus()
        page.keyboard.press('ArrowRight')
        image, ids = (decoded(s['pictures'][1][k]) for k in ('image', 'mask'))
        assert (shown(e, '1|overlay') == overlay(image, ids, s['codes'], s['alpha'])).all()
        e.get_by_role('button', name='mask', exact=True).click()
        assert (shown(e, '1|mask') == overlay(grey, ids, s['codes'], 1)).all()
        e.get_by_role('button', name='image', exact=True).click()
        assert (shown(e, '1|image') == image).all()
        e.locator('.segbook-key button', has_text='Road').click()
        road, one = s['codes'].index('Road'), shown(e, '1|one class|3')
        assert (one[ids != road] == (image//3 + 160)[ids != road]).all()
        assert (one[ids == road] == overlay(image, ids, s['codes'], s['alpha'])[ids == road]).all()
        assert e.locator('.segbook-key .segbook-void').count() == 1, 'Void is not hatched'
        assert not w.wrong, w.wrong


def test_figures_behind_a_slider_move_without_a_kernel(base, chromium):
    with Watched(chromium) as w:
        page = opened(w, base)
        page.locator('.jupyter-widgets img').first.wait_for()
        visible = ("() => [...document.querySelectorAll('.jupyter-widgets img')].filter(i => "
            "i.offsetParent).map(i => i.src).join()")
        before = page.evaluate(visible)
        handle = '.widget-slider .noUi-handle, .widget-hslider .noUi-handle'
        page.locator(handle).first.focus()
        page.keyboard.press('ArrowRight')
        page.wait_for_function(f'b => ({visible})() !== b', arg=before)


# ---- explorers on a sheet

def drive_convolution(page):
    e = by_name(page, 'multiplications')
    assert re.match(r'Output \(\d, \d\) reads rows', said(e)), said(e)
    old, before = said(e), pixels_of(e)
    press(page, e, 'slider', 'dilation', 'ArrowRight')
    assert (becomes(page, e, old) != before).any()
    old, before = said(e), pixels_of(e)
    row, col = map(int, re.match(r'Output \((\d), (\d)\)', old).groups())
    e.locator('canvas').focus()
    page.keyboard.press('ArrowDown')
    assert (becomes(page, e, old) != before).any() and f'Output ({row + 1}, {col})' in said(e)
    old = said(e)
    box = box_of(e)
    page.mouse.click(box['x'] + box['width']*470/660, box['y'] + box['height']*34/336)
    becomes(page, e, old)
    assert 'Output (0, 0)' in said(e)
    old, before = said(e), pixels_of(e)
    e.get_by_role('combobox', name='weights').select_option(label='sum')
    assert (becomes(page, e, old) != before).any() and '(-1)' not in said(e)
    for name, key in (('kernel', 'End'), ('dilation', 'End'), ('size', 'Home')):
        press(page, e, 'slider', name, key)
    page.wait_for_function("c => c.dataset.shown.includes('no output')",
        arg=e.locator('canvas').element_handle())


def drive_field(page):
    e = by_name(page, 'Effective')
    old, before = said(e), pixels_of(e)
    drag(page, e, (.4, .4), (.75, .7))
    assert (becomes(page, e, old) != before).mean() > .005
    took = float(e.locator('canvas').get_attribute('data-ms'))
    assert took < 100, 'moving the unit takes more than 100 ms'
    old, before = said(e), pixels_of(e)
    e.locator('canvas').focus()
    page.keyboard.press('ArrowLeft')
    assert (becomes(page, e, old) != before).any()
    old, before = said(e), pixels_of(e)
    e.get_by_role('combobox', name='layer').select_option(index=0)
    assert (becomes(page, e, old) != before).any() and 'stride 2' in said(e)
    before = pixels_of(e)
    e.get_by_role('button', name='effective field').click()
    page.wait_for_function('e => e.ariaPressed === "false"',
        arg=e.get_by_role('button', name='effective field').element_handle())
    assert (pixels_of(e) != before).any(), 'the cloud does not go'


def drive_upsampling(page):
    e = by_name(page, 'weights add up')
    old, before = said(e), pixels_of(e)
    e.get_by_role('combobox', name='way').select_option(label='transposed, kernel 3')
    assert (becomes(page, e, old) != before).any()
    old = said(e)
    e.locator('canvas').focus()
    page.keyboard.press('ArrowRight')
    becomes(page, e, old)
    box = box_of(e)
    old = said(e)
    page.mouse.click(box['x'] + .9*box['width'], box['y'] + .5*box['height'])
    becomes(page, e, old)


def drive_losses(page):
    e = by_name(page, 'it pushes')
    old, before = said(e), pixels_of(e)
    drag(page, e, (.2, .5), (.12, .8))
    assert (becomes(page, e, old) != before).mean() > .05
    old, before, had = said(e), pixels_of(e), numbers(e)
    e.locator('canvas').focus()
    page.keyboard.press('ArrowUp')
    page.keyboard.press('ArrowUp')
    assert (becomes(page, e, old) != before).any()
    for name in ('radius', 'softness', 'confidence'):
        old, before = said(e), pixels_of(e)
        press(page, e, 'slider', name, 'ArrowRight')
        assert (becomes(page, e, old) != before).any()
    assert len(had) == 7 and all(a != b for a, b in zip(had, numbers(e)))
    old, before = said(e), pixels_of(e)
    e.get_by_role('button', name='focal', exact=True).click()
    assert (becomes(page, e, old) != before).any() and said(e).startswith('focal is ')
    assert e.get_by_role('button', pressed=True).all_inner_texts() == ['focal']


def drive_metrics(page):
    e = by_name(page, 'Pixel accuracy')
    e.get_by_role('combobox', name='truth').select_option(label='poles')
    old, before = said(e), pixels_of(e)
    drag(page, e, (.3, .5), (.34, .5))
    # from 2, by .04 of the width
    assert (becomes(page, e, old) != before).any()
    assert re.search('moved 1 down and [45] right', said(e)), said(e)
    e.locator('canvas').focus()
    old = said(e)
    page.keyboard.press('ArrowLeft')
    becomes(page, e, old)
    for name, key in (('down', 'ArrowLeft'), ('right', 'Home'), ('grow', 'ArrowRight'),
            ('lost', 'ArrowRight')):
        old = said(e)
        press(page, e, 'slider', name, key)
        becomes(page, e, old)
    assert 'moved 0 down and -12 right, grown by 1, 1 %' in said(e)
    for name, key in (('grow', 'ArrowLeft'), ('lost', 'Home')): press(page, e, 'slider', name, key)
    old = said(e)
    e.get_by_role('combobox', name='truth').select_option(label='a small ship')
    becomes(page, e, old)
    accuracy, mean, _, iou, *_ = numbers(e)
    assert accuracy > .97 and iou == 0 and mean < .5, (
        'the lesson: the ship is missed, and nearly all pixels are right')


def drive_predictions(page):
    "From the worst image on, for all classes and for one, in all four views"
    e = by_name(page, '|errors|')
    assert said(e).endswith('|errors|0|0')
    old, before = said(e), pixels_of(e)
    assert (before == (205, 16, 36)).all(-1).any(), 'nothing is red'
    press(page, e, 'slider', 'rank', 'ArrowRight')
    assert (becomes(page, e, old) != before).any() and 'rank 2 of' in e.inner_text()
    for view in ('image', 'truth', 'prediction'):
        old, before = said(e), pixels_of(e)
        e.get_by_role('button', name=view, exact=True).click()
        assert (becomes(page, e, old) != before).any()
    old = said(e)
    e.get_by_role('combobox', name='worst for').select_option(label='Pole')
    becomes(page, e, old)
    assert 'rank 1 of' in e.inner_text() and 'IoU of Pole' in e.inner_text()


def drive_all(page):
    for drive in (drive_convolution, drive_field, drive_upsampling, drive_losses, drive_metrics,
            drive_predictions):
        drive(page)


def test_explorers_move_without_a_kernel(base, chromium):
    with Watched(chromium) as w:
        drive_all(opened(w, base))
        assert not w.wrong, w.wrong


def test_first_state_shows_the_point(base, chromium):
    "A box that fits into the image, its edges visible; numbers in the cells"
    with Watched(chromium) as w:
        page = opened(w, base)
        text = said(by_name(page, 'Effective'))
        top, bottom, left, right = map(int, re.search(
                r'rows (-?\d+) to (\d+), columns (-?\d+) to (\d+)', text).groups())
        d = state_of(page, 'layers')
        assert 0 < top < bottom < d['h'] - 1 and 0 < left < right < d['w'] - 1, text
        assert '= 18.' in said(by_name(page, 'multiplications')), 'the sum is spelt out'
        assert 'made of 4 values' in said(by_name(page, 'weights add up'))


def test_errors_are_those_of_python(base, chromium):
    with Watched(chromium) as w:
        page = opened(w, base)
        e, s = by_name(page, '|errors|'), next(s for s in states(page) if 'held' in s)
        first = next(o for o in s['held'] if o['position'] == s['orders'][0][0])
        truth, answer = decoded(first['truth']), decoded(first['prediction'])
        red = (pixels_of(e) == (205, 16, 36)).all(-1)
        assert (red == ((truth != answer) & (truth != s['void_id']))).all()
        assert not w.wrong, w.wrong


# ---- touch

def touch_screen(chromium, base):
    context = chromium.new_context(viewport=dict(width=390, height=800), has_touch=True,
        is_mobile=True)
    page = context.new_page()
    page.goto(base + PAGE, wait_until='networkidle')
    page.locator('.segbook-live').first.scroll_into_view_if_needed()
    return context, page


def finger(session, points):
    "A finger that goes from place to place"
    for i, (x, y) in enumerate(points):
        kind = 'touchMove' if i else 'touchStart'
        session.send('Input.dispatchTouchEvent', dict(type=kind, touchPoints=[dict(x=x, y=y)]))
    session.send('Input.dispatchTouchEvent', dict(type='touchEnd', touchPoints=[]))


@pytest.mark.parametrize('word', DRAWN_KINDS)
def test_a_finger_drags_the_handle_and_scrolls_beside_it(word, base, chromium):
    context, page = touch_screen(chromium, base)
    e, session = by_name(page, word), context.new_cdp_session(page)
    e.locator('.segbook-handle').evaluate("h => h.scrollIntoView({block: 'center'})")
    page.wait_for_timeout(300)
    # on the handle: the point follows the finger, the page stays
    ring, old, before = e.locator('.segbook-handle').bounding_box(), said(e), page.evaluate(
        'scrollY')
    x, y = ring['x'] + ring['width']/2, ring['y'] + ring['height']/2
    finger(session, [(x - 3*i, y - 7*i) for i in range(9)])
    becomes(page, e, old)
    assert page.evaluate('scrollY') == before, 'the page scrolls below the handle'
    # beside it: the page follows the finger, the point stays
    now, box = said(e), e.locator('canvas').bounding_box()
    finger(session, [(box['x'] + 4, 420 - 20*i) for i in range(9)])
    page.wait_for_function('before => scrollY > before + 60', arg=before)
    page.wait_for_timeout(200)
    assert said(e) == now, 'a finger that scrolls moves the point'
    context.close()


def test_a_tap_chooses(base, chromium):
    context, page = touch_screen(chromium, base)
    e = by_name(page, 'it pushes')
    old, box = said(e), box_of(e)
    page.touchscreen.tap(box['x'] + .25*box['width'], box['y'] + 60)
    becomes(page, e, old)
    context.close()


# ---- what every explorer has

def test_keyboard_reaches_everything(base, chromium):
    "Tab goes through the controls and the drawing of an explorer, and each has a name"
    with Watched(chromium) as w:
        page = opened(w, base)
        for word in DRAWN_KINDS:
            e = by_name(page, word)
            known = e.locator('select, input, button, canvas')
            unnamed = known.evaluate_all("""es => es.filter(e =>
                e.offsetParent && !(e.labels?.[0]?.textContent
                || e.ariaLabel || e.textContent).trim()).map(e => e.outerHTML)""")
            assert not unnamed, unnamed
            known.first.focus()
            seen = set()
            for _ in range(known.count()):
                seen.add(page.evaluate('document.activeElement.localName'))
                page.keyboard.press('Tab')
            assert {'canvas', 'button'} <= seen and seen & {'select', 'input'}, (word, seen)


def test_reset_and_picture(base, chromium):
    with Watched(chromium) as w:
        page = opened(w, base)
        for word in DRAWN_KINDS:
            e = by_name(page, word)
            first, before = said(e), pixels_of(e)
            e.locator('canvas').focus()
            page.keyboard.press('ArrowUp')
            becomes(page, e, first)
            with page.expect_download() as d: e.get_by_role('button', name='save PNG').click()
            saved = np.asarray(Image.open(d.value.path()).convert('RGB'))
            assert d.value.suggested_filename.endswith('.png') and saved.shape[1] >= 600
            changed = said(e)
            e.get_by_role('button', name='reset').click()
            becomes(page, e, changed)
            assert said(e) == first and (pixels_of(e) == before).all()


def test_full_screen(base, chromium):
    with Watched(chromium) as w:
        e = by_name(opened(w, base), 'it pushes')
        e.get_by_role('button', name='full screen').click()
        w.page.wait_for_function('document.fullscreenElement?.matches(".segbook-explorer")')
        canvas, high = e.locator('canvas').bounding_box(), w.page.evaluate('innerHeight')
        assert canvas['height'] < high and canvas['width'] > 640
        ground = e.evaluate('e => getComputedStyle(e).backgroundColor')
        assert ground != 'rgba(0, 0, 0, 0)', 'letters stand on the black of the screen'
        e.get_by_role('button', name='leave full screen').click()
        w.page.wait_for_function('!document.fullscreenElement')


def test_state_in_the_address(base, chromium):
    "What was changed in two explorers stands in the address, and comes back with it"
    with Watched(chromium) as w:
        page = opened(w, base)
        e, other = by_name(page, 'it pushes'), by_name(page, 'Pixel accuracy')
        old = said(e)
        e.get_by_role('button', name='focal', exact=True).click()
        press(page, e, 'slider', 'radius', 'End')
        becomes(page, e, old)
        press(page, other, 'slider', 'grow', 'Home')
        page.wait_for_function("location.hash.includes('metric.grow') && "
            "location.hash.includes('loss.radius')")
        hash = page.evaluate('location.hash')
        want, both = said(e), said(other)
    with Watched(chromium) as w:
        page = opened(w, base, hash)
        assert said(by_name(page, 'it pushes')) == want and said(by_name(page,
                'Pixel accuracy')) == both
        place = by_name(page, 'it pushes').bounding_box()
        assert -place['height'] < place['y'] < 900, 'the page does not lead to the explorer'
        e = by_name(page, 'it pushes')
        e.get_by_role('button', name='reset').click()
        page.wait_for_function("!location.hash.includes('loss.') && "
            "location.hash.includes('metric.')")
        assert not w.wrong, w.wrong


@pytest.mark.parametrize('hash',
    ['#explorers?loss.row=x&loss.radius=1e99&mask.view=%3Cb%3E&metric.scene=77', '#explorers?',
        '#losses', '#explorers?nothing.there=1'])
def test_a_strange_address_breaks_nothing(hash, base, chromium):
    with Watched(chromium) as w:
        page = opened(w, base, hash)
        assert 'row 22' in said(by_name(page, 'it pushes'))
        assert not w.wrong, w.wrong


def test_copy_link(base, chromium):
    with Watched(chromium) as w:
        w.context.grant_permissions(['clipboard-read', 'clipboard-write'])
        page = opened(w, base)
        e = by_name(page, 'multiplications')
        press(page, e, 'slider', 'stride', 'End')
        e.get_by_role('button', name='copy link').click()
        e.locator('.segbook-say', has_text='clipboard').wait_for()
        assert page.evaluate('navigator.clipboard.readText()').endswith(
            '#explorers?convolution.stride=3')


# ---- own images

def file_of(array, name='mask.png', **kw):
    b = io.BytesIO()
    Image.fromarray(array).save(b, format=Path(name).suffix[1:].upper().replace('JPG', 'JPEG'),
        **kw)
    return dict(name=name, mimeType='image/png', buffer=b.getvalue())


def test_own_mask_in_the_metric_explorer(base, chromium):
    with Watched(chromium) as w:
        page = opened(w, base)
        e = by_name(page, 'Pixel accuracy')
        mask = np.zeros((30, 50), np.uint8)
        mask[5:20, 10:40] = 255
        e.get_by_label('own mask', exact=True).set_input_files(file_of(mask))
        expect(e.locator('select option:checked')).to_have_text('own mask', timeout=PATIENCE)
        assert len(numbers(e)) == 7
        press(page, e, 'slider', 'right', 'ArrowRight')
        page.wait_for_function('c => c.dataset.shown.includes("1 right")',
            arg=e.locator('canvas').element_handle())
        moved = np.roll(mask, 1, 1)
        want = ((mask > 0) & (moved > 0)).sum()/((mask > 0) | (moved > 0)).sum()
        assert abs(numbers(e)[3] - want) < 1e-9
        noise = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
        e.get_by_label('own mask', exact=True).set_input_files(file_of(noise, 'photograph.png'))
        e.locator('.segbook-say', has_text='Save masks as PNG').wait_for()
        e.get_by_role('button', name='reset').click()
        page.wait_for_function('c => c.dataset.shown.includes("2 right")',
            arg=e.locator('canvas').element_handle())
        assert 'own mask' not in e.locator('select').inner_text()
        assert not w.wrong, w.wrong


def test_own_image_and_mask(base, chromium):
    from segbook.masks import overlay
    with Watched(chromium) as w:
        page = opened(w, base)
        e, s = page.locator('.segbook-explorer').first, next(s for s in states(page)
            if 'pictures' in s)
        rng = np.random.default_rng(0)
        image, ids = rng.integers(0, 256, (20, 31, 3), np.uint8), rng.integers(0, 5, (20, 31),
            np.uint8)
        e.get_by_label('own image', exact=True).set_input_files(file_of(image, 'street.png'))
        e.locator('.segbook-say', has_text='Now choose its mask').wait_for()
        e.get_by_label('own mask', exact=True).set_input_files(file_of(ids[1:]))
        e.locator('.segbook-say', has_text='expected one size').wait_for()
        e.get_by_label('own mask', exact=True).set_input_files(file_of(ids))
        shown(e, 'own|mask')
        e.get_by_role('button', name='overlay', exact=True).click()
        assert (shown(e, 'own|overlay') == overlay(image, ids, s['codes'], s['alpha'])).all()
        broken = dict(name='a.png', mimeType='image/png', buffer=b'no picture')
        e.get_by_label('own mask', exact=True).set_input_files(broken)
        e.locator('.segbook-say', has_text='no picture that this browser can read').wait_for()
        e.get_by_role('button', name='reset').click()
        shown(e, '0|mask')
        assert not w.wrong, w.wrong


# ---- what is shown against the library

def library_losses(z, t, weights):
    "[(value, gradient [H,W])] of the seven losses, as the explorer lists them, in float64"
    import torch
    from segbook import losses as L
    z = torch.tensor(z, dtype=torch.float64)[None, None].requires_grad_()
    t, w = torch.tensor(t).long()[None], torch.tensor(weights, dtype=torch.float64)[None]
    values = [f()(z, t) for f in (L.CrossEntropyLoss, L.FocalLoss)]
    values += [L.BorderWeightedLoss()(z, t, w)]
    values += [f()(z, t) for f in (L.DiceLoss, L.JaccardLoss, L.TverskyLoss, L.LovaszLoss)]
    return [(v.item(), torch.autograd.grad(v, z)[0][0, 0].numpy()) for v in values]


def test_loss_explorer_shows_what_the_library_says(base, chromium):
    from scipy.ndimage import label
    from segbook.losses import unet_weight_map
    with Watched(chromium) as w:
        page = opened(w, base)
        e, d = by_name(page, 'it pushes'), state_of(page, 'weight')
        t = np.array(d['truth']).reshape(d['h'], d['w'])
        weights = unet_weight_map(label(t)[0], inside=False)
        assert np.abs(np.array(d['weight']).reshape(t.shape) - weights).max() < 1e-4
        for turn, (place, chosen) in enumerate([((.2, .5), 0), ((.05, .9), 2), ((.3, .3), 3),
                    ((.7, .2), 5)]):
            old = said(e)
            drag(page, e, (.4, .6), place)
            becomes(page, e, old)
            if turn == 2: press(page, e, 'slider', 'confidence', 'End')
            e.locator('.segbook-bars button').nth(chosen).click()
            row, col = map(int, re.search(r'row (\d+), column (\d+)', said(e)).groups())
            y, x = np.mgrid[:t.shape[0], :t.shape[1]]
            x = (10 - np.hypot(y - row, x - col))/2
            z = (8 if turn > 1 else 4)*x/np.sqrt(1 + x*x)
            want = library_losses(z, t, weights)
            assert np.abs(np.array(numbers(e)) - [v for v, _ in want]).max() < 1e-4
            assert e.locator('.segbook-bars button').nth(chosen).inner_text() in said(e)
            assert np.abs(pushes_drawn(e, t.shape) - push_colours(want[chosen][1])).max() <= 1.01
        assert not w.wrong, w.wrong


def pushes_drawn(e, shape):
    "The colours of the right picture, a pixel each; sides of 6 units, and three gaps of 10"
    picture, side = pixels_of(e), 6
    k = picture.shape[1]/(30 + 12*shape[1])
    rows = 26 + side*(np.arange(shape[0]) + .5)
    columns = 20 + side*(shape[1] + np.arange(shape[1]) + .5)
    return picture[np.ix_((rows*k).astype(int), (columns*k).astype(int))]


def push_colours(grad):
    up = (-grad/np.abs(grad).max())[..., None]
    middle, low, high = (np.array(c) for c in ((124, 123, 120), (0, 32, 77), (255, 234, 70)))
    return middle + np.abs(up)*(np.where(up > 0, high, low) - middle)


def test_metric_explorer_shows_what_the_library_says(base, chromium):
    from segbook.metrics import Confusion
    with Watched(chromium) as w:
        page = opened(w, base)
        e, d = by_name(page, 'Pixel accuracy'), state_of(page, 'reach')
        for scene in d['scenes']:
            e.get_by_role('combobox', name='truth').select_option(label=scene['name'])
            t, K = np.array(scene['truth']).reshape(scene['h'], scene['w']), len(scene['names'])
            pred = np.zeros_like(t)
            pred[1:, 2:] = t[:-1, :-2]  # as it begins: one down, two to the right
            c = Confusion(K).update(pred, t)
            want = [c.pixel_accuracy(), c.mean_iou(), *c.iou().tolist(), *c.dice().tolist()[1:]]
            assert np.abs(np.array(numbers(e)[:len(want)]) - want).max() < 1e-9, scene['name']
            names = e.locator('.segbook-bars > div > span:first-child').all_inner_texts()
            assert names == ['pixel accuracy', 'mean IoU', *[f'IoU of {n}' for n in scene['names']],
                *[f'Dice of {n}' for n in scene['names'][1:]], 'boundary F1', 'Hausdorff 95']
            picture, side = pixels_of(e), 9
            k = picture.shape[1]/(20 + side*scene['w'])
            # beside the stroke
            at = picture[np.ix_(((10 + side*(np.arange(scene['h']) + .3))*k).astype(int),
                    ((10 + side*(np.arange(scene['w']) + .3))*k).astype(int))]
            want = np.select([(t == pred) & (t > 0), t == pred, (pred == 0) | (t > 0)], [1, 0, 2],
                3)
            colours = np.array([(233,)*3, (23, 69, 107), (224, 130, 20), (255,)*3])
            assert (at == colours[want]).all(), scene['name']
        assert not w.wrong, w.wrong


@pytest.mark.parametrize('theme', ['light', 'dark'])
@pytest.mark.parametrize('width', [1280, 390])
def test_labels_and_contrast(theme, width, base, chromium):
    with Watched(chromium, width, theme) as w:
        page = opened(w, base)
        page.wait_for_selector(f'html[data-theme={theme}]')
        page.add_script_tag(path=str(AXE))
        found = page.evaluate("axe.run('.segbook-explorer', {resultTypes: ['violations']})")
        assert not found['violations'], [(v['id'], v['nodes'][0]['html'][:200])
            for v in found['violations']]
        wide = page.evaluate('document.documentElement.scrollWidth')
        assert wide <= width, f'the page is {wide} pixels wide'


# ---- with a kernel

EXPLORER = 'from segbook.widgets import mask_explorer\nmask_explorer()'


def moves(page):
    "The explorer of a page with a kernel: a move of its slider changes the picture"
    e = page.locator('.segbook-explorer').first
    e.wait_for(timeout=PATIENCE)
    before = shown(e, '0|overlay')
    e.get_by_label('image').first.focus()
    page.keyboard.press('ArrowRight')
    after = shown(e, '1|overlay')
    assert after.shape == before.shape and (after != before).mean() > .1


def in_first_cell(w, server, folder, name, *sources):
    "Open a notebook with these cells in JupyterLab, and run the first"
    (Path(folder)/name).write_text(notebook(*sources))
    cells = in_lab(w.page, server, name)
    cells.first.locator('.cm-content').click()
    w.page.keyboard.press('Shift+Enter')
    return cells


def test_explorer_in_jupyterlab(folder, chromium):
    with lab(folder) as server, Watched(chromium) as w:
        in_first_cell(w, server, folder, 'masks.ipynb', EXPLORER)
        moves(w.page)
        address = w.page.url
        w.page.wait_for_timeout(500)
        assert w.page.url == address and '#' not in address, 'the address belongs to JupyterLab'
        assert not [o for o in w.wrong if o.startswith('asks')], w.wrong


DRAWN = """import torch; from torch import nn; from segbook.widgets import *
net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1))
field = receptive_field_explorer(net, (64, 96), ['0', '2'])
display(convolution_explorer(), field, upsampling_explorer(), loss_explorer(), metric_explorer(),
    prediction_explorer())"""


def test_drawn_explorers_in_jupyterlab(folder, chromium):
    with lab(folder) as server, Watched(chromium) as w:
        in_first_cell(w, server, folder, 'drawn.ipynb', DRAWN)
        drive_all(w.page)
        assert not [o for o in w.wrong if o.startswith('asks')], w.wrong


STILL = """import sys; sys.modules['anywidget'] = None
from segbook.widgets import loss_explorer
e = loss_explorer(row=20); e"""


def test_without_anywidget_a_figure_is_shown_and_the_notebook_goes_on(folder, chromium):
    with lab(folder) as server, Watched(chromium) as w:
        cells = in_first_cell(w, server, folder, 'still.ipynb', STILL, "print('row', e.row)")
        out = cells.first.locator('.jp-OutputArea-output')
        out.locator('img[alt]').wait_for(timeout=PATIENCE)
        assert 'pip install "segbook[widgets]"' in out.inner_text()
        w.page.keyboard.press('Shift+Enter')
        cells.nth(1).locator('.jp-OutputArea-output', has_text='row 20').wait_for()


def test_explorer_in_voila(folder, chromium):
    (Path(folder)/'explorer.ipynb').write_text(notebook(EXPLORER))
    with Server(folder, 'voila', 'explorer.ipynb', '--no-browser', '--port={port}',
            '--Voila.ip=127.0.0.1', '--token={token}') as server, Watched(chromium) as w:
        with Watched(chromium) as stranger:
            answer = stranger.page.goto(f'http://127.0.0.1:{server.port}/')
            known = answer.status in (401, 403) or '/login' in stranger.page.url
            assert known, 'the server answers without its token'
        w.page.goto(server.url(''), timeout=PATIENCE)
        moves(w.page)
