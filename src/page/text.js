'use strict';
// How things are written: numbers, times, and text of others, which is never trusted to look like what it is.

const $ = id => document.getElementById(id);
const order = new Intl.Collator('en', {numeric: true}).compare;
const digits = new Intl.NumberFormat('en');
const count = n => (n == null ? '-' : digits.format(n));
const plural = (n, one, many) => count(n) + ' ' + (n === 1 ? one : many);

// Controls and marks of direction are spelled out: they could make a line read as another one.
const shown = text =>
    String(text ?? '').replace(
        /[\u0000-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
        c => '\u2039U+' + c.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0') + '\u203a',
    );

// 0:41, 59:59, 3:04 h, 3 d 04 h
function age(ms) {
    const s = Math.max(0, Math.floor(ms / 1000)),
        two = n => String(n).padStart(2, '0');
    if (s < 3600) return Math.floor(s / 60) + ':' + two(s % 60);
    if (s < 86400) return Math.floor(s / 3600) + ':' + two(Math.floor(s / 60) % 60) + ' h';
    return Math.floor(s / 86400) + ' d ' + two(Math.floor(s / 3600) % 24) + ' h';
}

// The same in the words of a sentence: 41 s, 2 min 10 s, 3 h 4 min.
function spell(ms) {
    const s = Math.max(0, Math.floor(ms / 1000));
    if (s < 60) return s + ' s';
    if (s < 3600) return Math.floor(s / 60) + ' min ' + (s % 60) + ' s';
    return Math.floor(s / 3600) + ' h ' + (Math.floor(s / 60) % 60) + ' min';
}

const seconds = ms =>
    ms == null ? '-' : ms < 9950 ? (ms / 1000).toFixed(1) + ' s' : ms < 119500 ? Math.round(ms / 1000) + ' s' : age(ms);

// Machine time: 0:42 h, 51 h
function hours(ms) {
    const minutes = Math.floor(ms / 60000);
    if (minutes >= 600) return count(Math.floor(minutes / 60)) + ' h';
    return Math.floor(minutes / 60) + ':' + String(minutes % 60).padStart(2, '0') + ' h';
}

function bytes(n) {
    if (n == null) return '-';
    let unit = 0;
    while (n >= 999.5 && unit < 4) {
        n /= 1000;
        unit++;
    }
    return (unit && n < 9.95 ? n.toFixed(1) : Math.round(n)) + ' ' + ['B', 'KB', 'MB', 'GB', 'TB'][unit];
}

const format = options => {
    const f = new Intl.DateTimeFormat('en-GB', options);
    return at => f.format(at);
};
const hm = format({hour: '2-digit', minute: '2-digit'});
const hms = format({hour: '2-digit', minute: '2-digit', second: '2-digit'});
const day = format({dateStyle: 'medium', timeStyle: 'long'});

// Sets what differs, so that nothing is drawn, announced or unselected without need.
function put(node, text) {
    text = shown(text);
    if (node.textContent !== text) node.textContent = text;
}

function set(node, name, value) {
    if (value == null) {
        if (node.hasAttribute(name)) node.removeAttribute(name);
    } else if (node.getAttribute(name) !== shown(value)) node.setAttribute(name, shown(value));
}

function make(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const name in attributes) set(node, name, attributes[name]);
    node.append(...children);
    return node;
}

// Makes the children of a node those that the parts say, and keeps the elements that are there. A part is nothing,
// a text, {t: text, c: class, at: time, code}, or a button: {t: text, f: what it does, what: its object, key: whose
// results it shows, act: it changes something}.
function fill(parent, parts) {
    let node = parent.firstChild;
    for (let part of [parts].flat()) {
        if (!part) continue;
        if (typeof part !== 'object') part = {t: part};
        const tag = part.f ? 'BUTTON' : part.at != null ? 'TIME' : part.code ? 'CODE' : 'SPAN';
        if (node?.tagName !== tag) {
            const made = make(tag.toLowerCase());
            if (node) node.replaceWith(made);
            else parent.append(made);
            node = made;
        }
        const text = (part.f && results.get(part.key)) || part.t;
        put(node, text);
        set(node, 'class', part.c);
        if (part.at != null) {
            set(node, 'datetime', new Date(part.at).toISOString());
            set(node, 'title', day(part.at));
        }
        if (part.f) {
            set(node, 'type', 'button');
            set(node, 'aria-label', part.what && text + ' ' + part.what);
            // Not `disabled`, which would take the focus away from under the finger.
            const off = part.act && lost();
            set(node, 'aria-disabled', off ? 'true' : null);
            node.onclick = off ? null : part.f;
        }
        node = node.nextSibling;
    }
    while (node) {
        const next = node.nextSibling;
        node.remove();
        node = next;
    }
}
