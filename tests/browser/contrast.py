"""How well the texts of an element can be read: WCAG's contrast of what is painted in the end."""

from __future__ import annotations

from playwright.sync_api import Locator

# Grounds are painted from the page up: each ancestor's background, a drawing's shapes below the
# middle of the text, at last the text itself; an opacity fades all that is inside together.
TEXTS = """view => {
    const pen = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const known = new Map();
    function parse(colour) {
        if (!known.has(colour)) {
            pen.clearRect(0, 0, 1, 1);
            pen.fillStyle = '#0000';
            pen.fillStyle = colour;
            pen.fillRect(0, 0, 1, 1);
            const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
            known.set(colour, [r, g, b, a / 255]);
        }
        return known.get(colour);
    }
    const lerp = (below, above, share) => below.map((b, i) => b + (above[i] - b) * share);
    const over = (below, colour, opacity = 1) => {
        const [r, g, b, a] = parse(colour);
        return lerp(below, [r, g, b], a * opacity);
    };
    const drawn = e => e instanceof SVGElement;
    const drawings = new Map();
    function shapesBelow(text) {
        const drawing = text.ownerSVGElement;
        if (!drawings.has(drawing)) drawings.set(drawing,
            [...drawing.querySelectorAll('rect, circle')].map(e => [e, e.getBoundingClientRect()]));
        const box = text.getBoundingClientRect();
        const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
        const below = drawings.get(drawing).filter(([shape, { left, right, top, bottom }]) =>
            left <= x && x <= right && top <= y && y <= bottom &&
            text.compareDocumentPosition(shape) & Node.DOCUMENT_POSITION_PRECEDING);
        return below.map(([shape]) => shape);
    }
    function painted(chain, below, ink) {
        const [element, ...inner] = chain, style = getComputedStyle(element);
        if (style.backgroundImage !== 'none') throw new Error('a picture below a text');
        let seen = drawn(element) ? below : over(below, style.backgroundColor);
        if (inner.length) seen = painted(inner, seen, ink);
        else {
            if (drawn(element)) for (const shape of shapesBelow(element)) {
                const { fill, fillOpacity, opacity, visibility } = getComputedStyle(shape);
                if (fill !== 'none' && visibility === 'visible')
                    seen = over(seen, fill, fillOpacity * opacity);
            }
            if (ink) seen = over(seen, drawn(element) ? style.fill : style.color,
                drawn(element) ? style.fillOpacity : 1);
        }
        return lerp(below, seen, Number(style.opacity));
    }
    function luminance(colour) {
        const [r, g, b] = colour.map(c => c / 255)
            .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    }
    const found = [];
    const walker = document.createTreeWalker(view, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const { textContent, parentElement: element } = walker.currentNode;
        const text = textContent.trim();
        if (!text || !element.getClientRects().length || !element.checkVisibility()) continue;
        const chain = [];
        for (let e = element; e; e = e.parentElement) chain.unshift(e);
        const [ink, ground] = [true, false].map(i => luminance(painted(chain, [255, 255, 255], i)));
        const ratio = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
        found.push([text.slice(0, 60), element.className.baseVal ?? element.className, ratio]);
    }
    return found;
}"""


def contrasts(view: Locator) -> list[tuple[str, str, float]]:
    """Returns (text, class, contrast to its ground) of every text that is shown in an element."""
    return [tuple(found) for found in view.evaluate(TEXTS)]
