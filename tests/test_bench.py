"""The measurements: the clock that is told what to show, every topic once on its smallest case,
what is not repeated, and the command for GPUs where there is none."""
import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from bench import about, gpu, gpu_equal, timing, topics  # noqa: E402
from bench.__main__ import TOPICS, main, scripts, topic_named  # noqa: E402


# ---- the room of clocks

class Watch:
    "A clock that moves only when it is told to"
    now = 0.
    def __call__(self): return self.now


@pytest.fixture
def watch():
    "(clock on the wall, clock of the processor, function that takes time on both)"
    wall, cpu = Watch(), Watch()
    def take(seconds, busy=1.):
        wall.now += seconds
        cpu.now += seconds*busy
    return wall, cpu, take


def test_contestants_take_turns_and_the_first_round_is_thrown_away(watch):
    wall, cpu, take = watch
    order = []
    def contestant(name, seconds):
        def run():
            order.append(name)
            take(seconds[len([o for o in order if o == name]) - 1], .5)
        return run
    run = timing.race({'a': contestant('a', [9, 1, 1, 4]), 'b': contestant('b', [9, 2, 6, 8])},
        rounds=3, clocks=(wall, cpu))
    assert run.wall == {'a': [1, 1, 4], 'b': [2, 6, 8]}
    assert run.cpu == {'a': [.5, .5, 2], 'b': [1, 3, 4]}
    assert ''.join(order) == 'ba' + 'ab' + 'ba' + 'ab'  # no one always comes first


def test_ratios_are_taken_within_a_round(watch):
    "A machine that is ten times slower in one round moves no ratio."
    wall, cpu, take = watch
    slow = iter([1, 1, 1, 1, 10, 10, 1, 1])
    run = timing.race({k: lambda t=t: take(t*next(slow)) for k, t in (('a', 1), ('b', 3))},
        rounds=3, clocks=(wall, cpu))
    row = timing.summary(run, 'a')
    assert row['ratios']['b'] == [3, 3, 3, 3] and row['ratios']['a'] == [1, 1, 1, 1]
    assert row['wall_ms']['b'] == [3000, 3000, 3000, 16500] and row['rounds'] == 3


def test_what_is_short_is_repeated_and_counted_once(watch):
    wall, cpu, take = watch
    calls = []
    def short():
        calls.append(1)
        take(.005)
    run = timing.race({'short': short}, rounds=2, clocks=(wall, cpu))
    assert len(calls) == 1 + 2*4                # 0.02 seconds a round
    assert run.wall['short'] == pytest.approx([.005]*2)


def test_a_contestant_may_measure_itself(watch):
    wall, cpu, take = watch
    run = timing.race({'other process': lambda: timing.Spent(7., 3.)}, 1, clocks=(wall, cpu))
    assert run == ({'other process': [7.]}, {'other process': [3.]})


def test_threads_and_collector_are_as_before():
    import gc
    before = torch.get_num_threads()
    with timing.threads(1): assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    seen = []
    timing.race({'a': lambda: seen.append(gc.isenabled())}, 1, warm=0)
    assert seen == [False] and gc.isenabled() and gc.get_freeze_count() == 0


def test_spread():
    assert timing.spread([3., 1., 2.]) == [2, 1, 1.5, 2.5] and timing.spread([5.]) == [5]*4


# ---- what a topic keeps

def topic_of(calls, **kw):
    "A topic of two cases that notes what runs"
    def contest(name):
        def f(): calls.append(name)
        def missing(): import a_library_that_is_not_here  # noqa: F401
        return topics.Contest({'ours': lambda: f, 'peer': lambda: f, 'absent': missing})
    cases = [topics.Case('curve', 'pixels', n, f'{n} pixels', lambda n=n: contest(n))
        for n in (10, 1)]
    return topics.Topic('startup', 'nothing', 'ours', lambda smoke: cases, **kw)


def run(topic, file, **kw):
    said = []
    rows = topics.run_topic(topic, file=file, rounds=1, said=said.append, **kw)
    return rows, said


def test_what_is_known_is_not_run_again(tmp_path, monkeypatch):
    file, calls = tmp_path/'out.json', []
    topic = topic_of(calls)
    rows, said = run(topic, file)
    assert len(said) == 2 and set(calls) == {10, 1} and len(rows) == 2
    row = rows['curve, 1 pixels, 1 thread']
    assert row['left_out'] == {'absent': 'a_library_that_is_not_here is not installed'}
    assert 'absent left out: a_library' in said[0] and set(row['ratios']) == {'ours', 'peer'}
    kept = json.loads(file.read_text())
    assert kept['cases'] == rows and kept['versions']['torch'] == torch.__version__.split('+')[0]
    calls.clear()
    assert run(topic, file) == (rows, []) and not calls
    assert len(run(topic, file, again=True)[1]) == 2
    assert run(topic, file, only='10 pixels', again=True)[1][0].startswith('\ncurve, 10 pixels')
    monkeypatch.setattr(topics, 'versions', lambda *p: dict(torch='another one'))
    assert len(run(topic, file)[1]) == 2


def test_other_code_is_measured_anew(tmp_path, monkeypatch):
    file, calls = tmp_path/'out.json', []
    run(topic_of(calls), file)
    part = tmp_path/'part.py'
    part.write_text('1')
    monkeypatch.setattr(topics, 'sources', lambda t: [part])
    assert len(run(topic_of(calls), file)[1]) == 2 and run(topic_of(calls), file)[1] == []
    part.write_text('2')
    assert len(run(topic_of(calls), file)[1]) == 2


def test_an_interrupted_run_goes_on_and_strange_rows_leave(tmp_path, monkeypatch):
    file, calls = tmp_path/'out.json', []
    topic, measure = topic_of(calls), topics.measure
    def once(topic, case, *args, **kw):
        if case.at == 1: raise KeyboardInterrupt
        return measure(topic, case, *args, **kw)
    monkeypatch.setattr(topics, 'measure', once)
    with pytest.raises(KeyboardInterrupt): run(topic, file)
    monkeypatch.setattr(topics, 'measure', measure)
    assert list(json.loads(file.read_text())['cases']) == ['curve, 10 pixels, 1 thread']
    assert [o.split(',')[1] for o in run(topic, file)[1]] == [' 1 pixels']
    alone = topic._replace(cases=lambda smoke: topic.cases(smoke)[:1])
    assert list(run(alone, file)[0]) == ['curve, 10 pixels, 1 thread']
    assert len(json.loads(file.read_text())['cases']) == 1
    # the other number of threads is a measurement of its own
    assert len(run(alone, file, threads=2)[0]) == 2


def test_results_of_another_kind_are_no_rows(tmp_path):
    file = tmp_path/'old.json'
    for text in ('{"ratio": 2}', 'no JSON', ''):
        file.write_text(text)
        assert topics.read_rows(file) == {}
    assert topics.read_rows(tmp_path/'none.json') == {}


def test_a_list_of_numbers_is_one_line():
    o = dict(a=[1.5, 2, None], b='[ 1,\n2 ] "', c=[[1], dict(d=[])], e=['x'])
    text = topics.as_json(o)
    assert json.loads(text) == o and '"a": [1.5, 2, null],\n' in text


def test_curves_grow_along_their_axis(tmp_path):
    rows, _ = run(topic_of([]), tmp_path/'out.json')
    assert [[r['at'] for r in rs] for rs in topics.growth(rows).values()] == [[1, 10]]
    picture = topics.draw(topic_of([]), rows, tmp_path/'deep'/'curve.png')
    assert picture.read_bytes().startswith(b'\x89PNG')
    assert topics.draw(topic_of([]), {}, tmp_path/'none.png') is None
    once = {k: dict(r, at=1) for k, r in rows.items()}  # two ways at one place are no growth
    assert topics.growth(once) == {}


# ---- every topic

@pytest.mark.parametrize('name', TOPICS)
def test_topic_runs(name, monkeypatch, capsys):
    "Its smallest case, one round; the results it is checked for are equal, and nothing is written"
    if name != 'startup':
        for p in ('timm', 'segmentation_models_pytorch', 'torchmetrics', 'monai'):
            pytest.importorskip(p)
    monkeypatch.setattr(topics, 'write_rows', lambda *a: pytest.fail('something was written'))
    assert main(['--smoke', name]) == 0
    out = capsys.readouterr().out
    assert 'in units of' in out and 'left out' not in out, out


@pytest.mark.parametrize('name', TOPICS)
def test_topic_names_what_there_is(name):
    topic = topic_named(name)
    assert topic.name == name and all(o.exists() for o in topics.sources(topic))
    keys = [c.key for c in topic.cases(False)]
    assert len(keys) == len(set(keys))
    recorded = topics.read_rows(topic.file)
    # a topic of pairs names each pair's own: 'smp' stands for 'smp FPN'; a TIFF is beside tifffile
    named = {k: 'tifffile imread' if k.startswith('TIFF') else topic.named for k in recorded}
    assert all(f'{r["named"]} '.startswith(f'{named[k]} ') for k, r in recorded.items())
    assert all(r['wall_ms'].keys() == r['cpu_ms'].keys() == r['ratios'].keys()
        for r in recorded.values())


def test_unknown_names_and_the_list(capsys):
    with pytest.raises(SystemExit) as e: main(['losess'])
    assert e.value.code == 2 and 'no topic losess; there are loading' in capsys.readouterr().err
    assert main(['--list']) == 0
    out = capsys.readouterr().out
    assert all(f'\n{n:16} ' in f'\n{out}' for n in [*TOPICS, *scripts()])
    assert {'gpu', 'experiments', 'quality', 'scenes'} <= set(scripts())


@pytest.mark.parametrize('name', [n for n in scripts() if n != 'gpu'])
def test_trainings_explain_themselves(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', sys.argv)
    with pytest.raises(SystemExit) as e: main([name, '--help'])
    assert e.value.code == 0 and f'python -m bench {name}' in capsys.readouterr().out


# ---- GPUs

@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU here')
def test_no_gpu_is_said(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', sys.argv)
    assert main(['gpu']) == 2
    said = capsys.readouterr()
    assert not said.out and 'there is no GPU here' in said.err
    assert 'nothing was measured' in said.err


def test_gpu_command_runs_and_what_differs_ends_it(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', sys.argv)
    monkeypatch.setattr(gpu, 'replace_file', lambda *a: pytest.fail('something was written'))
    monkeypatch.setattr(gpu, 'findings', lambda *a: [('a loss', True, '')])
    assert main(['gpu', '--smoke']) == 0
    out = capsys.readouterr().out
    assert 'segbook dynamic_unet ' in out and 'waits for the loader' in out
    monkeypatch.setattr(gpu, 'findings', lambda *a: [('a loss', False, '0.1')])
    for part in ('steps', 'epochs'):
        monkeypatch.setattr(gpu, part, lambda *a, **kw: dict(left_out={}, ratios={},
                loader_waiting={}))
    assert main(['gpu', '--smoke']) == 1
    assert 'a loss' in (out := capsys.readouterr().out) and 'NOT EQUAL' in out


def test_differences_are_found(monkeypatch):
    "The same on one device; a metric that forgets a pixel on its way is told"
    found = gpu_equal.findings('cpu', smoke=True)
    assert len(found) > 40 and all(ok for _, ok, _ in found), found
    x = torch.tensor([1., torch.inf, 3.])
    assert gpu_equal.apart(x, x) == 0 and gpu_equal.apart(x, x+1) == pytest.approx(1/3)
    assert gpu_equal.apart(x, x[:2]) == gpu_equal.apart(x, torch.tensor([1., 2., 3.])) == torch.inf
    plain = gpu_equal.Confusion.update
    def forgetful(self, x, t):
        res = plain(self, x, t)
        forgetful.calls += 1
        if forgetful.calls % 6 == 0: self.hold(self.rows*0)
        return res
    forgetful.calls = 0
    monkeypatch.setattr(gpu_equal.Confusion, 'update', forgetful)
    told = [what for what, ok, _ in gpu_equal.of_metrics('cpu', (17, 20)) if not ok]
    assert told and all(o.startswith('Confusion') for o in told)


def test_share_of_the_peak():
    assert gpu.peak_of('NVIDIA H100 80GB HBM3', 5) == (989, 'data sheet, H100')
    assert gpu.peak_of('NVIDIA H100 PCIe', 5)[0] == 756 and gpu.peak_of('NVIDIA L4', 5)[0] == 121
    assert gpu.peak_of('a card of tomorrow', 5) == (5, 'a product of matrices')
    assert gpu.share_of_peak(1e12, .01, 1000) == pytest.approx(.1)


def test_operations_of_a_step_are_counted():
    "A convolution of 2x3x3 numbers on 4x4 pixels: forward, and backward for weight and input"
    net, x = torch.nn.Conv2d(2, 5, 3, padding=1), torch.rand(1, 2, 4, 4, requires_grad=True)
    assert gpu.operations(lambda: net(x).sum().backward()) == 3*2*(2*3*3)*5*16


def test_machine_is_described():
    said = about.about('a package that is not there')
    assert said['cores'] >= 1 and 'torch' in said['versions'] and len(said['versions']) >= 4


@pytest.mark.parametrize('name, of', [
    ('camvid', lambda m: dict(m.SETTINGS, variants=m.RUNS)),
    ('little_time', lambda m: dict(m.SETTINGS, variants=m.RUNS)),
    ('medical', lambda m: dict(m.SETTINGS, recipes=m.RECIPES, otherwise=m.OTHERWISE))])
def test_results_of_trainings_say_with_what_they_were_made(name, of):
    module = importlib.import_module(f'bench.{name}')
    assert json.loads(module.FILE.read_text())['settings'] == json.loads(json.dumps(of(module)))
