// Asks for the page again whenever the server says that something has changed, and replaces the parts that are live.
// Without it all works, too: a reload shows what is new.
'use strict';

const page = document.body.dataset.page;
const offline = document.getElementById('offline');
let isAsking = false;
let isStale = false;
let timer;

async function refresh() {
  if (isAsking) {
    isStale = true;
    return;
  }
  isAsking = true;
  clearTimeout(timer);
  try {
    const response = await fetch(page + location.search);
    if (response.ok) {
      replace(new DOMParser().parseFromString(await response.text(), 'text/html'));
    }
  } catch {
    // The stream of events tells of a lost connection.
  }
  isAsking = false;
  if (isStale) {
    isStale = false;
    refresh();
  } else {
    lookAgainIfUnsettled();
  }
}

function replace(fresh) {
  for (const part of document.querySelectorAll('[data-live]')) {
    const next = fresh.getElementById(part.id);
    if (!next || next.innerHTML === part.innerHTML) {
      continue;
    }
    // The focus stays where it is, also if its element is replaced.
    const focused = part.contains(document.activeElement) ? document.activeElement.id : '';
    part.replaceChildren(...next.childNodes);
    if (focused) {
      document.getElementById(focused)?.focus({ preventScroll: true });
    }
  }
}

// Not everything that changes says so: a broker that starts, or an event that waits for its next attempt.
function lookAgainIfUnsettled() {
  if (document.querySelector('[data-unsettled]')) {
    timer = setTimeout(refresh, 1000);
  }
}

const events = new EventSource('/live');
events.addEventListener('change', refresh);
events.addEventListener('open', () => { offline.hidden = true; });
events.addEventListener('error', () => { offline.hidden = false; });
addEventListener('pagehide', () => events.close());

// A form that was refused says why, where a screen reader and the keyboard are.
document.querySelector('.problem')?.focus();
