"use strict";
(() => {
  const SHOWN_ROWS = 200;
  const MINUTES = 5;
  const at = (id) => document.getElementById(id);
  const lag = [];
  let token = sessionStorage.getItem("reflex-token") || "";
  let timer = 0;

  class Refused extends Error {
    constructor(status, body) {
      super(body && body.message ? body.message : `The instance answered ${status}.`);
      this.status = status;
    }
  }

  async function ask(method, path, body, also) {
    const headers = { Accept: "application/json" };
    if (token) headers.Authorization = `Bearer ${token}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const answer = await fetch(path, {
      method, headers, cache: "no-store", body: body === undefined ? undefined : JSON.stringify(body),
    });
    let content = null;
    try { content = await answer.json(); } catch { content = null; }
    if (!answer.ok && !(also && answer.status === also && content && content.status)) throw new Refused(answer.status, content);
    return content;
  }

  const number = new Intl.NumberFormat("en");
  const count = (n) => (n === null || n === undefined ? "–" : number.format(n));

  function duration(ms) {
    if (ms === null || ms === undefined) return "–";
    if (ms < 1000) return `${Math.round(ms)} ms`;
    if (ms < 60000) return `${(ms / 1000).toFixed(1)} s`;
    if (ms < 3600000) return `${Math.floor(ms / 60000)} min ${Math.round((ms % 60000) / 1000)} s`;
    return `${(ms / 3600000).toFixed(1)} h`;
  }

  function bytes(n) {
    if (n === null || n === undefined) return "";
    const units = ["bytes", "KB", "MB", "GB", "TB"];
    let unit = 0;
    while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit += 1; }
    return `${unit ? n.toFixed(1) : n} ${units[unit]} behind`;
  }

  function cell(row, text, kind) {
    const td = document.createElement("td");
    td.textContent = text;
    td.title = text;
    if (kind) td.className = kind;
    row.append(td);
    return td;
  }

  function put(id, text) {
    if (at(id).textContent !== text) at(id).textContent = text;
  }

  const TONES = { ok: "ok", degraded: "warn", unreachable: "bad", cap_exceeded: "bad" };

  function showHealth(h) {
    document.title = `${h.instance} · ${h.status}`;
    put("name", h.instance);
    put("status", h.status.replace("_", " "));
    at("status").className = `pill ${TONES[h.status] || "warn"}`;
    put("about", `${h.backend}, ${h.syncMode}`);
    put("lag", duration(h.lagMs));
    put("lag-bytes", bytes(h.lagBytes));
    put("phase", h.phase);
    put("age", h.snapshotAgeMs === null ? "" : `last batch ${duration(h.snapshotAgeMs)} ago`);
    put("position", h.position || "–");
    put("source-position", h.sourcePosition ? `source ${h.sourcePosition}` : "");
    put("memory", `${count(h.memoryMb)} MB`);
    put("memory-cap", h.memoryCapMb ? `of ${count(h.memoryCapMb)} MB` : "");
    const rows = Object.values(h.rowCounts);
    put("rows", count(rows.reduce((sum, n) => sum + n, 0)));
    put("table-count", `in ${rows.length} table${rows.length === 1 ? "" : "s"}`);
    const paused = h.phase === "paused";
    at("pause").hidden = paused;
    at("resume").hidden = !paused;
    const error = h.lastError;
    at("notice").hidden = !error;
    if (error) put("notice", [error.message, error.remedy].filter(Boolean).join(" "));
    showChecks(h.checks);
    if (h.lagMs !== null) lag.push([Date.now(), h.lagMs]);
    while (lag.length && lag[0][0] < Date.now() - MINUTES * 60000) lag.shift();
    draw();
  }

  function showChecks(checks) {
    at("checks-card").hidden = !checks.length;
    at("checks").replaceChildren(...checks.map((check) => {
      const row = document.createElement("tr");
      cell(row, check.name);
      cell(row, check.status, check.status === "ok" ? "ok" : check.status === "failed" ? "bad" : "warn");
      cell(row, check.detail || "");
      cell(row, `since ${new Date(check.since).toLocaleString()}`, "quiet");
      return row;
    }));
  }

  function draw() {
    if (!lag.length) return;
    const now = Date.now();
    const top = Math.max(100, ...lag.map((point) => point[1]));
    put("lag-max", `highest ${duration(Math.max(...lag.map((point) => point[1])))}`);
    const span = Math.min(MINUTES * 60000, Math.max(60000, now - lag[0][0]));
    put("lag-span", span < MINUTES * 60000 ? `last ${Math.ceil(span / 60000)} min` : `last ${MINUTES} min`);
    const x = (time) => 600 - ((now - time) / span) * 600;
    const y = (ms) => 110 - (ms / top) * 100;
    const points = lag.map(([time, ms]) => `${x(time).toFixed(1)} ${y(ms).toFixed(1)}`);
    at("line").setAttribute("d", `M${points.join("L")}`);
    at("area").setAttribute("d", `M${x(lag[0][0]).toFixed(1)} 110L${points.join("L")}L${x(lag.at(-1)[0]).toFixed(1)} 110Z`);
  }

  function showTables(tables) {
    at("tables").replaceChildren(...tables.map((table) => {
      const row = document.createElement("tr");
      cell(row, `${table.schema}.${table.name}`, "mono");
      cell(row, count(table.rowCount), "number");
      const loading = table.state !== "live" && table.rowsExpected > 0;
      const state = loading ? `${table.state} ${count(table.rowsLoaded)} / ${count(table.rowsExpected)}` : table.state;
      const shown = cell(row, state, table.state === "live" ? "ok" : "warn");
      if (table.reason) shown.title = table.reason;
      cell(row, table.lastChange ? new Date(table.lastChange).toLocaleTimeString() : "–");
      cell(row, table.identity || "–", "quiet");
      return row;
    }));
  }

  function showAnswer(answer, took) {
    const head = document.createElement("tr");
    for (const column of answer.columns) {
      const th = document.createElement("th");
      th.textContent = column.name;
      const type = document.createElement("span");
      type.className = "type";
      type.textContent = column.type.length > 40 ? `${column.type.slice(0, 40)}…` : column.type;
      th.append(type);
      head.append(th);
    }
    const thead = document.createElement("thead");
    thead.append(head);
    const tbody = document.createElement("tbody");
    for (const values of answer.rows) {
      const row = document.createElement("tr");
      for (const value of values) {
        if (value === null) cell(row, "NULL", "null");
        else if (typeof value === "object") cell(row, JSON.stringify(value), "value");
        else cell(row, String(value), typeof value === "number" ? "value number" : "value");
      }
      tbody.append(row);
    }
    at("answer").replaceChildren(thead, tbody);
    const more = answer.truncated ? "the first " : "";
    const where = answer.position ? ` at ${answer.position}` : "";
    put("answer-note", `${more}${count(answer.rowCount)} row${answer.rowCount === 1 ? "" : "s"} in ${duration(took)}${where}`);
  }

  async function run() {
    at("run").disabled = true;
    at("query-error").hidden = true;
    const began = performance.now();
    try {
      const answer = await ask("POST", "/query", { sql: at("sql").value, max_rows: SHOWN_ROWS });
      showAnswer(answer, performance.now() - began);
    } catch (error) {
      if (error instanceof Refused && error.status === 401) { login(error); return; }
      at("answer").replaceChildren();
      put("answer-note", "");
      put("query-error", error instanceof Refused ? error.message : "The instance does not answer.");
      at("query-error").hidden = false;
    } finally {
      at("run").disabled = false;
    }
  }

  function login(error) {
    clearTimeout(timer);
    at("main").hidden = true;
    at("pause").hidden = true;
    at("resume").hidden = true;
    at("login").hidden = false;
    put("login-error", token ? error.message : "");
    put("status", "token needed");
    at("status").className = "pill warn";
    at("token").focus();
  }

  let turn = 0;
  async function refresh() {
    clearTimeout(timer);
    try {
      showHealth(await ask("GET", "/health", undefined, 503));
      at("login").hidden = true;
      at("main").hidden = false;
      if (turn % 3 === 0) showTables((await ask("GET", "/tables")).tables);
      turn += 1;
    } catch (error) {
      if (error instanceof Refused && error.status === 401) { login(error); return; }
      put("status", error instanceof Refused ? error.message : "not answering");
      at("status").className = "pill bad";
    }
    timer = setTimeout(refresh, document.hidden ? 5000 : 1000);
  }

  async function command(path) {
    try { await ask("POST", path, {}); } catch (error) { put("notice", error.message); at("notice").hidden = false; }
    refresh();
  }

  at("pause").addEventListener("click", () => command("/sync/pause"));
  at("resume").addEventListener("click", () => command("/sync/resume"));
  at("query").addEventListener("submit", (event) => { event.preventDefault(); run(); });
  at("sql").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); }
  });
  at("login").addEventListener("submit", (event) => {
    event.preventDefault();
    token = at("token").value.trim();
    sessionStorage.setItem("reflex-token", token);
    at("token").value = "";
    turn = 0;
    refresh();
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && !at("main").hidden) refresh(); });
  refresh();
})();
