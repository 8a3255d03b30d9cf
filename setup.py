"Reads everything from settings.ini: name, version, requirements, extras and commands."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

root = Path(__file__).parent
parser = ConfigParser(delimiters=['='])
parser.read(root/'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']
extras = {o: cfg[f'{o}_requirements'].split() for o in cfg['extras'].split()}
extras['all'] = sorted({r for o, rs in extras.items() if o != 'demo' for r in rs})
extras['dev'] = cfg['dev_requirements'].split() + extras['all']

setup(name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    long_description=(root/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown', keywords=cfg['keywords'].split(),
    author=cfg['author'], author_email=cfg['author_email'], license='Apache-2.0',
    url=cfg['git_url'], python_requires=f">={cfg['min_python']}",
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Developers',
        'Intended Audience :: Education', *(f'Programming Language :: Python :: 3.{o}'
            for o in range(10, 14)), 'Topic :: Scientific/Engineering :: Image Recognition'],
    packages=find_packages(include=['segbook', 'segbook.*']),
    package_data={'segbook': ['widgets/js/*.js', 'widgets/js/*.css']},
    zip_safe=False, install_requires=cfg['requirements'].split(), extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split(),
        'nbdev': ['segbook=segbook._modidx:d']},)
