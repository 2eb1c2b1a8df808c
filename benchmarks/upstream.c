/* Very fast MCP upstream for benchmarking a gateway (loopback only).
 *
 * One epoll thread per process, no allocation on the hot path, keep-alive and
 * pipelining.  Answers MCP over Streamable HTTP:
 *   POST /mcp   initialize | notifications/.. (202) | tools/list | tools/call | ping
 *               other methods -> JSON-RPC -32601
 *   POST /sse   the same, but answers are text/event-stream bodies
 *   GET  /mcp   long-lived text/event-stream (one event each -i milliseconds)
 *   DELETE /mcp 200
 *   GET  /stats JSON counters        POST /reset  zero the counters
 * and is also a fake OAuth token endpoint (start a second process for it):
 *   POST /token  any grant -> {"access_token":"tokN","token_type":"Bearer",
 *                "expires_in":<-x seconds>}; counted in /stats as "token"
 *   GET  /.well-known/oauth-authorization-server   RFC 8414 metadata
 * Requires "Authorization: Bearer <token>", token beginning with the prefix
 * given by -t (default "tok"); otherwise 401 with WWW-Authenticate.
 *
 * Build: cc -O2 -o upstream upstream.c
 * Prints "READY http://127.0.0.1:PORT/mcp" once it listens; -p 0 takes any free port.
 * Run:   ./upstream -p 9100 [-t tok] [-n tools] [-b bytes] [-i ms] [-d ms]
 *   -n  number of tools that tools/list gives (default 3)
 *   -b  size of the tools/call text (default 64)
 *   -d  delay of each tools/call answer in ms (default 0; a queue, no sleep)
 *   -x  expires_in of the tokens given (default 3600)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAXFD 65536
#define INBUF (64 * 1024)

typedef struct conn {
    int fd;
    int stream;             /* GET stream open */
    char *in; size_t inlen;
    char *out; size_t outlen, outoff, outcap;
    long long due;          /* delayed answer due (ms) or 0 */
    char *held; size_t heldlen;
    struct conn *next;      /* in the delay queue */
} conn;

static conn *conns[MAXFD];
static int ep, port = 9100, ntools = 3, nbytes = 64, interval = 1000, delay_ms = 0, expires = 3600;
static const char *tokpref = "tok";
static char *list_json; static size_t list_len;
static char *call_text;
static unsigned long long c_init, c_list, c_call, c_other, c_401, c_conn, c_stream, c_notif, c_nosess, c_token;
static int open_streams;
static conn *dq_head, *dq_tail;

static long long now_ms(void) {
    struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);
    return (long long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void out_add(conn *c, const char *p, size_t n) {
    if (c->outlen + n > c->outcap) {
        size_t cap = c->outcap ? c->outcap : 4096;
        while (cap < c->outlen + n) cap *= 2;
        c->out = realloc(c->out, cap); c->outcap = cap;
    }
    memcpy(c->out + c->outlen, p, n); c->outlen += n;
}

static void close_conn(conn *c) {
    if (c->stream) open_streams--;
    if (c->due) { /* unlink from delay queue */
        conn **pp = &dq_head, *prev = NULL;
        while (*pp && *pp != c) { prev = *pp; pp = &(*pp)->next; }
        if (*pp) { *pp = c->next; if (dq_tail == c) dq_tail = prev; }
        free(c->held);
    }
    conns[c->fd] = NULL; close(c->fd); free(c->in); free(c->out); free(c);
}

/* returns 0 when the connection was closed */
static int flush_out(conn *c) {
    while (c->outoff < c->outlen) {
        ssize_t n = send(c->fd, c->out + c->outoff, c->outlen - c->outoff, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) {
                struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT, .data.fd = c->fd};
                epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &ev);
                return 1;
            }
            close_conn(c); return 0;
        }
        c->outoff += n;
    }
    c->outoff = c->outlen = 0;
    return 1;
}

static void respond(conn *c, const char *status, const char *ctype, const char *extra,
                    const char *body, size_t blen) {
    char h[512];
    int n = snprintf(h, sizeof h,
        "HTTP/1.1 %s\r\n%s%s%s%sContent-Length: %zu\r\n\r\n", status,
        ctype ? "Content-Type: " : "", ctype ? ctype : "", ctype ? "\r\n" : "",
        extra ? extra : "", blen);
    out_add(c, h, n); if (blen) out_add(c, body, blen);
}

/* value of a top-level-looking "key": in the JSON text (good enough here) */
static const char *jfind(const char *b, const char *e, const char *key) {
    size_t k = strlen(key);
    for (const char *p = b; p + k < e; p++) {
        p = memchr(p, '"', e - p);
        if (!p || p + k + 2 > e) return NULL;
        if (!memcmp(p + 1, key, k) && p[k + 1] == '"') {
            const char *q = p + k + 2;
            while (q < e && (*q == ' ' || *q == '\t' || *q == '\n')) q++;
            if (q < e && *q == ':') {
                q++;
                while (q < e && (*q == ' ' || *q == '\t' || *q == '\n')) q++;
                return q;
            }
        }
    }
    return NULL;
}

/* The request id is the "id" that is not inside params: look outside braces. */
static const char *jfind_top(const char *b, const char *e, const char *key) {
    int depth = 0, instr = 0; size_t k = strlen(key);
    for (const char *p = b; p < e; p++) {
        if (instr) { if (*p == '\\') p++; else if (*p == '"') instr = 0; continue; }
        if (*p == '{' || *p == '[') depth++;
        else if (*p == '}' || *p == ']') depth--;
        else if (*p == '"') {
            if (depth == 1 && p + k + 2 < e && !memcmp(p + 1, key, k) && p[k + 1] == '"') {
                const char *q = p + k + 2;
                while (q < e && *q == ' ') q++;
                if (q < e && *q == ':') { q++; while (q < e && *q == ' ') q++; return q; }
            }
            instr = 1;
        }
    }
    return NULL;
}

static size_t jval_len(const char *v, const char *e) { /* number or string */
    const char *p = v;
    if (*p == '"') { p++; while (p < e && *p != '"') { if (*p == '\\') p++; p++; } return p + 1 - v; }
    while (p < e && *p != ',' && *p != '}' && *p != ' ' && *p != '\n' && *p != '\r') p++;
    return p - v;
}

static const char *hdr(const char *h, const char *he, const char *name, size_t *len) {
    size_t n = strlen(name);
    for (const char *p = h; p < he;) {
        const char *nl = memchr(p, '\n', he - p);
        if (!nl) break;
        if ((size_t)(nl - p) > n && p[n] == ':' && !strncasecmp(p, name, n)) {
            const char *v = p + n + 1; while (*v == ' ') v++;
            const char *ve = nl; while (ve > v && (ve[-1] == '\r' || ve[-1] == ' ')) ve--;
            *len = ve - v; return v;
        }
        p = nl + 1;
    }
    return NULL;
}

static void answer(conn *c, int sse, const char *extra, const char *json, size_t n) {
    if (!sse) { respond(c, "200 OK", "application/json", extra, json, n); return; }
    char *b = malloc(n + 64);
    int m = sprintf(b, "event: message\ndata: ");
    memcpy(b + m, json, n); m += n; memcpy(b + m, "\n\n", 2); m += 2;
    respond(c, "200 OK", "text/event-stream", extra, b, m);
    free(b);
}

static void handle(conn *c, const char *h, const char *he, const char *body, size_t blen) {
    size_t n; const char *v;
    if (!memcmp(h, "GET /stats", 10)) {
        char b[512];
        int m = snprintf(b, sizeof b, "{\"initialize\":%llu,\"tools_list\":%llu,\"tools_call\":%llu,"
            "\"notifications\":%llu,\"other\":%llu,\"unauthorized\":%llu,\"connections\":%llu,"
            "\"streams_total\":%llu,\"streams_open\":%d,\"calls_without_session\":%llu,\"token\":%llu}\n",
            c_init, c_list, c_call, c_notif, c_other, c_401, c_conn, c_stream, open_streams, c_nosess, c_token);
        respond(c, "200 OK", "application/json", NULL, b, m); return;
    }
    if (!memcmp(h, "POST /reset", 11)) {
        c_init = c_list = c_call = c_other = c_401 = c_conn = c_stream = c_notif = c_nosess = c_token = 0;
        respond(c, "204 No Content", NULL, NULL, NULL, 0); return;
    }
    if (!memcmp(h, "POST /token", 11)) {
        char b[256]; c_token++;
        int m = snprintf(b, sizeof b, "{\"access_token\":\"%s-%d-%llu\",\"token_type\":\"Bearer\",\"expires_in\":%d}",
                         tokpref, (int)getpid(), c_token, expires);
        respond(c, "200 OK", "application/json", "Cache-Control: no-store\r\n", b, m); return;
    }
    if (!memcmp(h, "GET /.well-known/oauth-authorization-server", 43)) {
        char b[512];
        int m = snprintf(b, sizeof b, "{\"issuer\":\"http://127.0.0.1:%d\",\"token_endpoint\":\"http://127.0.0.1:%d/token\","
            "\"grant_types_supported\":[\"client_credentials\",\"refresh_token\"],\"response_types_supported\":[\"code\"]}", port, port);
        respond(c, "200 OK", "application/json", NULL, b, m); return;
    }
    v = hdr(h, he, "authorization", &n);
    size_t tp = strlen(tokpref);
    if (!v || n < 7 + tp || strncasecmp(v, "Bearer ", 7) || memcmp(v + 7, tokpref, tp)) {
        c_401++;
        respond(c, "401 Unauthorized", "application/json",
            "WWW-Authenticate: Bearer error=\"invalid_token\"\r\n", "{\"error\":\"invalid_token\"}", 25);
        return;
    }
    if (!memcmp(h, "GET ", 4)) {
        char hd[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
                    "Transfer-Encoding: chunked\r\n\r\n";
        out_add(c, hd, sizeof hd - 1); c->stream = 1; c_stream++; open_streams++; return;
    }
    if (!memcmp(h, "DELETE ", 7)) { respond(c, "200 OK", NULL, NULL, NULL, 0); return; }
    if (memcmp(h, "POST ", 5)) { respond(c, "405 Method Not Allowed", NULL, NULL, NULL, 0); return; }
    int sse = !memcmp(h + 5, "/sse", 4);
    const char *e = body + blen;
    const char *id = jfind_top(body, e, "id"), *m = jfind_top(body, e, "method");
    if (!m) { c_other++; respond(c, "202 Accepted", NULL, NULL, NULL, 0); return; }
    if (!id) { c_notif++; respond(c, "202 Accepted", NULL, NULL, NULL, 0); return; }
    size_t idn = jval_len(id, e); if (idn > 200) idn = 200;
    if (!strncmp(m, "\"tools/call\"", 12)) {
        static char *buf; if (!buf) buf = malloc(nbytes + 1024);
        c_call++;
        size_t sl; if (!hdr(h, he, "mcp-session-id", &sl)) c_nosess++;
        int k = sprintf(buf, "{\"jsonrpc\":\"2.0\",\"id\":%.*s,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"%s\"}],\"isError\":false}}",
                        (int)idn, id, call_text);
        if (delay_ms && !c->due) {
            size_t o = c->outlen; answer(c, sse, NULL, buf, k);
            c->heldlen = c->outlen - o; c->held = malloc(c->heldlen);
            memcpy(c->held, c->out + o, c->heldlen); c->outlen = o;
            c->due = now_ms() + delay_ms; c->next = NULL;
            if (dq_tail) dq_tail->next = c; else dq_head = c;
            dq_tail = c;
        } else answer(c, sse, NULL, buf, k);
    } else if (!strncmp(m, "\"tools/list\"", 12)) {
        c_list++;
        char *b = malloc(list_len + 512);
        int k = sprintf(b, "{\"jsonrpc\":\"2.0\",\"id\":%.*s,\"result\":{\"tools\":", (int)idn, id);
        memcpy(b + k, list_json, list_len); k += list_len; memcpy(b + k, "}}", 2); k += 2;
        answer(c, sse, NULL, b, k); free(b);
    } else if (!strncmp(m, "\"initialize\"", 12)) {
        char b[1024], ex[128]; c_init++;
        char pv[32] = "\"2025-06-18\"";
        const char *p = jfind(body, e, "protocolVersion");
        if (p) { size_t l = jval_len(p, e); if (l < sizeof pv) { memcpy(pv, p, l); pv[l] = 0; } }
        int k = snprintf(b, sizeof b, "{\"jsonrpc\":\"2.0\",\"id\":%.*s,\"result\":{\"protocolVersion\":%s,"
            "\"capabilities\":{\"tools\":{\"listChanged\":false}},\"serverInfo\":{\"name\":\"bench-upstream\",\"version\":\"1\"}}}",
            (int)idn, id, pv);
        snprintf(ex, sizeof ex, "Mcp-Session-Id: s%08llx%08x\r\n", c_init, (unsigned)random());
        answer(c, sse, ex, b, k);
    } else if (!strncmp(m, "\"ping\"", 6)) {
        char b[300]; c_other++;
        int k = snprintf(b, sizeof b, "{\"jsonrpc\":\"2.0\",\"id\":%.*s,\"result\":{}}", (int)idn, id);
        answer(c, sse, NULL, b, k);
    } else {
        char b[400]; c_other++;
        /* empty lists, so that clients that ask for everything are content */
        const char *res = NULL;
        if (!strncmp(m, "\"resources/list\"", 16)) res = "{\"resources\":[]}";
        else if (!strncmp(m, "\"resources/templates/list\"", 26)) res = "{\"resourceTemplates\":[]}";
        else if (!strncmp(m, "\"prompts/list\"", 14)) res = "{\"prompts\":[]}";
        int k = res ? snprintf(b, sizeof b, "{\"jsonrpc\":\"2.0\",\"id\":%.*s,\"result\":%s}", (int)idn, id, res)
                    : snprintf(b, sizeof b, "{\"jsonrpc\":\"2.0\",\"id\":%.*s,\"error\":{\"code\":-32601,\"message\":\"Method not found\"}}", (int)idn, id);
        answer(c, sse, NULL, b, k);
    }
}

/* In-place de-chunk. Returns bytes used in all, or 0 when incomplete. */
static size_t dechunk(char *p, size_t n, size_t *blen) {
    size_t r = 0, w = 0;
    for (;;) {
        char *nl = memmem(p + r, n - r, "\r\n", 2);
        if (!nl) return 0;
        size_t sz = strtoul(p + r, NULL, 16);
        r = nl - p + 2;
        if (r + sz + 2 > n) return 0;
        if (w != r) memmove(p + w, p + r, sz);
        w += sz; r += sz + 2;
        if (!sz) { *blen = w; return r; }
    }
}

static void on_read(conn *c) {
    for (;;) {
        ssize_t n = recv(c->fd, c->in + c->inlen, INBUF - c->inlen - 1, 0);
        if (n == 0) { close_conn(c); return; }
        if (n < 0) { if (errno == EAGAIN) break; close_conn(c); return; }
        c->inlen += n;
        if (c->inlen < INBUF - 1) break;
    }
    size_t off = 0;
    while (off < c->inlen) {
        char *h = c->in + off; size_t left = c->inlen - off;
        char *he = memmem(h, left, "\r\n\r\n", 4);
        if (!he) break;
        he += 4; size_t vl, blen = 0, used;
        const char *v = hdr(h, he, "content-length", &vl);
        if (v) blen = strtoul(v, NULL, 10);
        const char *te = hdr(h, he, "transfer-encoding", &vl);
        if (te && !v) {
            /* chunked bodies are de-chunked in place; re-parse only when complete */
            char *last = memmem(he, left - (he - h), "0\r\n\r\n", 5);
            if (!last) break;
            size_t u = dechunk(he, left - (he - h), &blen);
            if (!u) break;
            used = (he - h) + u;
        } else {
            used = (he - h) + blen;
            if (used > left) {
                const char *x = hdr(h, he, "expect", &vl);
                if (x && c->outlen == 0) { out_add(c, "HTTP/1.1 100 Continue\r\n\r\n", 25); flush_out(c); }
                break;
            }
        }
        handle(c, h, he, he, blen);
        off += used;
    }
    if (off) { memmove(c->in, c->in + off, c->inlen - off); c->inlen -= off; }
    else if (c->inlen >= INBUF - 1) { close_conn(c); return; }
    flush_out(c);
}

int main(int argc, char **argv) {
    int o;
    while ((o = getopt(argc, argv, "p:t:n:b:i:d:x:")) != -1) switch (o) {
        case 'p': port = atoi(optarg); break;
        case 't': tokpref = optarg; break;
        case 'n': ntools = atoi(optarg); break;
        case 'b': nbytes = atoi(optarg); break;
        case 'i': interval = atoi(optarg); break;
        case 'x': expires = atoi(optarg); break;
        case 'd': delay_ms = atoi(optarg); break;
        default: return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    struct rlimit rl = {MAXFD, MAXFD}; setrlimit(RLIMIT_NOFILE, &rl);
    list_json = malloc((size_t)ntools * 300 + 16);
    char *p = list_json; *p++ = '[';
    for (int i = 0; i < ntools; i++)
        p += sprintf(p, "%s{\"name\":\"echo%d\",\"description\":\"Echo number %d: gives a fixed text\","
            "\"inputSchema\":{\"type\":\"object\",\"properties\":{\"text\":{\"type\":\"string\"}},\"required\":[\"text\"]}}",
            i ? "," : "", i, i);
    *p++ = ']'; list_len = p - list_json;
    call_text = malloc(nbytes + 1); memset(call_text, 'x', nbytes); call_text[nbytes] = 0;

    int l = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, "127.0.0.1", &a.sin_addr);
    if (bind(l, (void *)&a, sizeof a) || listen(l, 4096)) { perror("bind/listen"); return 1; }
    socklen_t alen = sizeof a;
    getsockname(l, (void *)&a, &alen); port = ntohs(a.sin_port);
    printf("READY http://127.0.0.1:%d/mcp\n", port); fflush(stdout);
    ep = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = l}, evs[512];
    epoll_ctl(ep, EPOLL_CTL_ADD, l, &ev);
    long long next_tick = now_ms() + interval;
    for (;;) {
        long long t = now_ms(), wait = next_tick - t;
        if (dq_head && dq_head->due - t < wait) wait = dq_head->due - t;
        if (wait < 0) wait = 0;
        int n = epoll_wait(ep, evs, 512, (int)wait);
        for (int i = 0; i < n; i++) {
            int fd = evs[i].data.fd;
            if (fd == l) {
                for (;;) {
                    int s = accept4(l, NULL, NULL, SOCK_NONBLOCK);
                    if (s < 0) break;
                    if (s >= MAXFD) { close(s); continue; }
                    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    conn *c = calloc(1, sizeof *c); c->fd = s; c->in = malloc(INBUF);
                    conns[s] = c; c_conn++;
                    struct epoll_event e2 = {.events = EPOLLIN, .data.fd = s};
                    epoll_ctl(ep, EPOLL_CTL_ADD, s, &e2);
                }
                continue;
            }
            conn *c = conns[fd];
            if (!c) continue;
            if (evs[i].events & EPOLLOUT) {
                struct epoll_event e2 = {.events = EPOLLIN, .data.fd = fd};
                epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e2);
                if (!flush_out(c)) continue;
            }
            if (evs[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) on_read(c);
        }
        t = now_ms();
        while (dq_head && dq_head->due <= t) {
            conn *c = dq_head; dq_head = c->next; if (!dq_head) dq_tail = NULL;
            c->due = 0; out_add(c, c->held, c->heldlen); free(c->held); c->held = NULL;
            flush_out(c);
        }
        if (t >= next_tick) {
            next_tick = t + interval;
            if (open_streams) {
                char ev1[240], ck[280];
                struct timespec ts; clock_gettime(CLOCK_REALTIME, &ts);
                int m = sprintf(ev1, "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":{\"t\":%lld.%09ld}}}\n\n",
                                (long long)ts.tv_sec, ts.tv_nsec);
                int k = sprintf(ck, "%x\r\n%s\r\n", m, ev1);
                for (int fd = 0; fd < MAXFD; fd++) {
                    conn *c = conns[fd];
                    if (c && c->stream) { out_add(c, ck, k); flush_out(c); }
                }
            }
        }
    }
}
