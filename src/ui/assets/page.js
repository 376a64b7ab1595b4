// Pillarbox: everything here is an addition; each page works without it.
"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  root.classList.add("js");

  // Words for a reader who does not see the page change.
  const status = document.createElement("div");
  status.className = "sr";
  status.setAttribute("role", "status");
  document.body.append(status);
  const say = text => { status.textContent = text; };

  // Copy: the text is that of the <code> or <pre> beside the button, or of the element named by data-copy.
  const copy = async button => {
    const name = button.dataset.copy;
    const source = name ? document.getElementById(name) : button.parentElement.querySelector("code, pre");
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
      say("Copied");
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
      say("Selected; copy it with the keyboard");
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  };

  // Times: UTC from the server; here in the reader's zone, and "in 5 min" for data-rel.
  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const relative = at => {
    const seconds = Math.round((at - Date.now()) / 1000);
    const [unit, size] = units.find(([, size]) => Math.abs(seconds) >= size) || units[3];
    const count = `${Math.round(Math.abs(seconds) / size)}\u00a0${unit}`;
    return seconds > 0 ? `in ${count}` : `${count} ago`;
  };
  const times = from => all("time[datetime]", from).forEach(time => {
    const at = new Date(time.dateTime);
    if (isNaN(at)) return;
    time.title = `${whole.format(at)} (${time.dateTime})`;
    if ("rel" in time.dataset) time.textContent = `${clock.format(at)}, ${relative(at)}`;
  });

  // Parts: [data-part] is taken anew from the same address. Not while somebody is in it.
  const busy = part => part.contains(document.activeElement) && document.activeElement.matches("input, select, textarea")
    || part.querySelector("details[open], input:checked") || !getSelection().isCollapsed;
  let loading = null;
  const refresh = async () => {
    const parts = all("[data-part]").filter(part => !busy(part));
    if (loading || document.hidden || !parts.length) return;
    loading = new AbortController();
    const patience = setTimeout(() => loading.abort(), 10000);
    try {
      const answer = await fetch(location.href, { credentials: "same-origin", signal: loading.signal, redirect: "error" });
      if (!answer.ok) throw new Error(answer.status);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of parts) {
        const next = fresh.querySelector(`[data-part="${CSS.escape(part.dataset.part)}"]`);
        if (!next) continue;
        const known = new Set(all("tr[id]", part).map(row => row.id));
        const focused = document.activeElement.closest?.("[id]")?.id;
        part.replaceChildren(...next.childNodes);
        if (known.size) all("tr[id]", part).forEach(row => row.classList.toggle("new", !known.has(row.id)));
        times(part);
        if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
      }
      root.classList.remove("stale");
    } catch {
      root.classList.add("stale");
    } finally {
      clearTimeout(patience);
      loading = null;
    }
  };

  // Refresh by the clock: <form data-every> has the choice, kept for the tab.
  const every = document.querySelector("select[data-every]");
  let timer = 0;
  const arm = () => {
    clearInterval(timer);
    if (every && Number(every.value)) timer = setInterval(refresh, Number(every.value) * 1000);
  };
  if (every) {
    every.value = sessionStorage.getItem("every") ?? every.value;
    every.addEventListener("change", () => { sessionStorage.setItem("every", every.value); arm(); });
    arm();
  }

  // A part that waits for something looks again by itself until the server leaves out data-refresh, its seconds.
  const waiting = document.querySelector("[data-refresh]");
  const wait = waiting && setInterval(() => {
    if (document.querySelector("[data-refresh]")) refresh(); else clearInterval(wait);
  }, Number(waiting.dataset.refresh) * 1000);

  // Live: one stream a tab, closed while hidden. An event only asks for the parts again, at most once a second.
  const live = document.querySelector("[data-live]");
  const toggle = document.querySelector("[data-live-switch]");
  let stream = null, asked = 0;
  const close = () => { stream?.close(); stream = null; };
  const open = () => {
    if (stream || document.hidden || toggle?.getAttribute("aria-pressed") !== "true") return;
    stream = new EventSource(live.dataset.live);
    const ask = () => { asked ||= setTimeout(() => { asked = 0; refresh(); }, 1000); };
    // Each event of the stream has a type of its own; data-kinds lists those of this page.
    (live.dataset.kinds || "").split(" ").filter(Boolean).forEach(kind => stream.addEventListener(kind, ask));
    stream.onerror = () => { if (stream?.readyState === EventSource.CLOSED) { close(); setTimeout(open, 5000); } };
  };
  if (live && toggle) open();
  if (live && toggle) toggle.addEventListener("click", event => {
    event.preventDefault();
    const on = toggle.getAttribute("aria-pressed") !== "true";
    toggle.setAttribute("aria-pressed", String(on));
    say(on ? "New messages appear" : "The list stands still");
    if (on) { open(); refresh(); } else close();
  });
  document.addEventListener("visibilitychange", () => { if (document.hidden) close(); else { open(); if (every) refresh(); } });

  document.addEventListener("click", event => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button);
    // One confirmation at a time; a click beside it closes it.
    all("details.confirm[open]").forEach(box => { if (!box.contains(event.target)) box.open = false; });
  });
  document.addEventListener("change", event => {
    const box = event.target;
    if (!box.matches("[data-tick-all]")) return;
    all("tbody input[type=checkbox]", box.closest("section")).forEach(other => { other.checked = box.checked; });
  });
  document.addEventListener("keydown", event => {
    const typing = event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey;
    if (event.key === "Escape") all("details.confirm[open]").forEach(box => { box.open = false; box.querySelector("summary").focus(); });
    if (event.key !== "/" || typing) return;
    const search = document.querySelector("[data-search]");
    if (search) { event.preventDefault(); search.focus(); search.select(); }
  });
  // A form is sent once: the second press of a slow network changes nothing.
  document.addEventListener("submit", event => {
    // A button of the method "dialog" sends nothing.
    if ((event.submitter?.formMethod || event.target.method) !== "post") return;
    if (event.target.dataset.sent) event.preventDefault();
    event.target.dataset.sent = "1";
  });
  addEventListener("pageshow", () => all("form[data-sent]").forEach(form => delete form.dataset.sent));
  times(document);
  setInterval(() => times(document), 30000);

  // Sign-in with a link: its token stands behind "#", which no server and no log sees.
  const signIn = document.getElementById("sign-in");
  if (signIn && location.hash.length > 1) {
    signIn.elements.link.value = location.hash.slice(1);
    history.replaceState(null, "", location.pathname + location.search);
    signIn.submit();
  }
})();
