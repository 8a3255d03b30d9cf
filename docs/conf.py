"""Settings of the site. The pages are written to _proc/site by docs/build.py, which calls Sphinx
with this file."""
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
parser = ConfigParser(delimiters=['='])
parser.read(ROOT/'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']

project, author, copyright, release = cfg['title'], cfg['author'], cfg['copyright'], cfg['version']
extensions = ['myst_nb', 'sphinx_copybutton', 'sphinxext.opengraph']
templates_path = [str(ROOT/'docs'/'templates')]
html_theme = 'sphinx_book_theme'
html_title = project
html_static_path = [str(ROOT/'docs'/'static'), str(ROOT/'_proc'/'static')]
html_css_files = ['segbook.css']
html_js_files = ['segbook.js']
html_favicon = str(ROOT/'docs'/'static'/'favicon.svg')
html_context = dict(default_mode='auto')
html_show_sphinx = False
# docs/finish.py puts the notebooks themselves in their place
html_copy_source = True
html_theme_options = dict(repository_url=cfg['git_url'], repository_branch=cfg['branch'],
    path_to_docs='nbs', use_source_button=True, use_repository_button=True,
    use_edit_page_button=True, use_issues_button=True, use_fullscreen_button=False,
    launch_buttons=dict(colab_url='https://colab.research.google.com',
        notebook_interface='classic'), show_navbar_depth=1, show_toc_level=2, home_page_in_toc=True,
    navbar_persistent=[], collapse_navbar=True, pygments_light_style='a11y-high-contrast-light',
    pygments_dark_style='a11y-high-contrast-dark')

myst_enable_extensions = ['dollarmath', 'amsmath']
myst_heading_anchors = 3
nb_execution_mode = 'off'                       # docs/build.py runs the notebooks
nb_merge_streams = True
nb_render_markdown_format = 'myst'              # tables that a cell shows are tables
# docs/static/segbook-live.js loads what an explorer needs
nb_ipywidgets_js = {}
mathjax_path = 'vendor/tex-svg.js'
mathjax3_config = dict(svg=dict(fontCache='local'), options=dict(enableMenu=False))
suppress_warnings = ['mystnb.unknown_mime_type', 'myst.header']

ogp_site_url = f"{cfg['doc_host']}{cfg['doc_baseurl']}/"
ogp_image = '_static/preview.png'
ogp_social_cards = dict(enable=False)
ogp_enable_meta_description = True


OF_A_NOTEBOOK = 'download-buttons', 'launch-buttons', 'source-file-button', 'source-edit-button'


def buttons(app, pagename, templatename, context, doctree):
    "No page that docs/build.py makes up is a notebook: it has no source to show, to edit or to run"
    if not (pagename.startswith('api/') or pagename in ('workshop/index', '404')): return
    def kept(found): return [b for b in found if b.get('label') not in OF_A_NOTEBOOK]
    context['header_buttons'] = kept(context['header_buttons'])
    for b in context['header_buttons']:
        if 'buttons' in b: b['buttons'] = kept(b['buttons'])


# after the theme has made its buttons
def setup(app): app.connect('html-page-context', buttons, priority=600)
