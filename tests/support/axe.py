"""What axe-core finds on a page, by WCAG 2.2 A and AA and its own best practices."""

from keras_pipeline.export.tfjs import PAGE

AXE = PAGE / "node_modules/axe-core/axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def violations(page):
    """[rule, first element] of each violation. A Playwright page with a content policy needs bypass_csp."""
    page.add_script_tag(path=str(AXE))
    run = "(rules) => axe.run({ runOnly: rules }).then((found) => found.violations.map((v) => [v.id, v.nodes[0].html]))"
    return page.evaluate(run, RULES)


def violations_of_report(browser, file, *, width, scheme):
    """The same of a report with everything in it opened; a page that slides sideways and cut captions count too."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    found = violations(page)
    found += page.evaluate("document.documentElement.scrollWidth > innerWidth ? [['slides sideways', '']] : []")
    found += page.evaluate("""[...document.querySelectorAll('caption span')]
        .filter((e) => e.getBoundingClientRect().right > e.closest('.scroll').getBoundingClientRect().right)
        .map((e) => ['cut caption', e.textContent])""")
    page.close()
    return found
