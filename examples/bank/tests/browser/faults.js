(() => {
  const faults = [];
  const isShown = (element) => element.checkVisibility() && !element.closest('.hidden, .skip');
  const name = (element) => `${element.tagName.toLowerCase()}#${element.id} "${element.textContent.trim().slice(0, 30)}"`;

  // Nothing sticks out of the screen, or of its card. A phone's innerWidth grows with what does.
  const width = document.documentElement.clientWidth;
  for (const element of document.querySelectorAll('body *')) {
    const edge = Math.min(width, element.closest('.card')?.getBoundingClientRect().right ?? width);
    if (isShown(element) && element.getBoundingClientRect().right > edge + 1) {
      faults.push(`${name(element)} ends at ${element.getBoundingClientRect().right}, beyond ${edge}`);
    }
  }

  // Each field has a label, each control a name and an id that is unique, and is large enough for a finger.
  for (const control of document.querySelectorAll('input:not([type=hidden]), select, button, summary')) {
    if (!isShown(control)) continue;
    if (control.labels && control.matches('input, select') && control.labels.length !== 1) {
      faults.push(`${name(control)} has ${control.labels.length} labels`);
    }
    if (control.matches('button, summary') && !control.textContent.trim()) faults.push(`${name(control)} has no name`);
    if (control.id && document.querySelectorAll(`#${control.id}`).length > 1) faults.push(`${name(control)} is there twice`);
    if (control.getBoundingClientRect().height < 32) faults.push(`${name(control)} is too small`);
  }

  // One title, headings without gaps, one main part, a language.
  if (document.querySelectorAll('h1').length !== 1) faults.push('there is not one title');
  if (document.querySelectorAll('main').length !== 1) faults.push('there is not one main part');
  if (!document.documentElement.lang || !document.title) faults.push('no language or no title');
  for (const section of document.querySelectorAll('section')) {
    const label = section.getAttribute('aria-labelledby');
    if (!section.getAttribute('aria-label') && !document.getElementById(label)) faults.push(`${name(section)} has no name`);
  }

  // Text stands out from what is behind it: WCAG 2, level AA.
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const luminance = (color) => {
    const [r, g, b] = [...rgba(color)].slice(0, 3).map((part) => {
      const value = part / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (rgba(color)[3] === 255) return color;
    }
    return 'white';
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let texts = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !isShown(element) || element.disabled) continue;
    texts += 1;
    const style = getComputedStyle(element);
    const [low, high] = [luminance(style.color), luminance(behind(element))].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    const isLarge = parseFloat(style.fontSize) >= 24;
    if (contrast < (isLarge ? 3 : 4.5)) faults.push(`${name(element)} has a contrast of ${contrast.toFixed(2)}`);
    if (parseFloat(style.fontSize) < 12) faults.push(`${name(element)} is ${style.fontSize} small`);
  }
  if (texts < 10) faults.push(`only ${texts} texts were found`);
  return faults;
})()
