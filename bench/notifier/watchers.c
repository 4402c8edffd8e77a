// Watchers: WebSocket clients that count the reports that reach them, and how long each took.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

enum { BUFFER = 1 << 18, STUCK_BUFFER = 4096, ETHERNET_SEGMENT = 1460, MOST_LATENCIES = 4000000 };
enum stage {
    CLOSED,
    CONNECTING,
    UPGRADING,  // the request is sent
    ENTERING,   // Socket.IO's own handshake
    OPEN,
    ASKING,     // Headway: the token is sent, the job's snapshot has not come
    WATCHING,
};

// The key of RFC 6455's example: whatever answers it is not checked, and the limit server knows but this answer.
static const char UPGRADE[] = "GET %s HTTP/1.1\r\n"
                              "Host: 127.0.0.1:%d\r\n"
                              "Connection: Upgrade\r\n"
                              "Pragma: no-cache\r\n"
                              "Cache-Control: no-cache\r\n"
                              "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
                              "Chrome/126.0.0.0 Safari/537.36\r\n"
                              "Upgrade: websocket\r\n"
                              "Origin: %s\r\n"
                              "Sec-WebSocket-Version: 13\r\n"
                              "Accept-Encoding: gzip, deflate, br, zstd\r\n"
                              "Accept-Language: en-US,en;q=0.9\r\n"
                              "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

struct watcher {
    int fd;
    enum stage stage;
    unsigned char *rest;  // of a message that has come in part
    size_t rest_size;
};

static struct watcher watchers[MOST_WATCHERS];
static int under_way, watching_count, lost_count;
static uint64_t delivered_count, latency_count;
static uint32_t latencies_us[MOST_LATENCIES];

static int number_of(const struct watcher *watcher)
{
    return (int)(watcher - watchers);
}

static int job_of(const struct watcher *watcher)
{
    return number_of(watcher) % options.job_count;
}

static void enter(struct watcher *watcher, enum stage stage)
{
    bool was_under_way = watcher->stage != CLOSED && watcher->stage != OPEN && watcher->stage != WATCHING;
    bool is_under_way = stage != CLOSED && stage != OPEN && stage != WATCHING;
    under_way += is_under_way - was_under_way;
    watching_count += (stage == WATCHING) - (watcher->stage == WATCHING);
    watcher->stage = stage;
}

static void let_go(struct watcher *watcher)
{
    close(watcher->fd);
    enter(watcher, CLOSED);
    free(watcher->rest);
    watcher->rest = NULL;
    watcher->rest_size = 0;
}

static void lose(struct watcher *watcher, const char *reason)
{
    complain("watcher %d: %s", number_of(watcher), reason);
    lost_count++;
    let_go(watcher);
}

static void send_frame(struct watcher *watcher, enum opcode opcode, const char *data, size_t size)
{
    unsigned char frame[MOST_SENT];
    size_t length = make_frame(frame, opcode, data, size);
    if (!length || send(watcher->fd, frame, length, MSG_NOSIGNAL) != (ssize_t)length)
        lose(watcher, "takes no more");
}

static void connect_watcher(struct watcher *watcher)
{
    bool stuck = number_of(watcher) >= options.watchers;
    struct linger reset = {1, 0};  // no TIME_WAIT: thousands of connections come and go within a run
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons((uint16_t)options.watch_ports[number_of(watcher) % options.replicas]);
    watcher->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    enter(watcher, CONNECTING);
    setsockopt(watcher->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    setsockopt(watcher->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (stuck) {
        setsockopt(watcher->fd, SOL_SOCKET, SO_RCVBUF, &(int){STUCK_BUFFER}, sizeof(int));
        // As over Ethernet. With loopback's 64 kB the kernel would keep megabytes for each, and run short for all.
        setsockopt(watcher->fd, IPPROTO_TCP, TCP_MAXSEG, &(int){ETHERNET_SEGMENT}, sizeof(int));
    }
    if (connect(watcher->fd, (struct sockaddr *)&address, sizeof address) != 0 && errno != EINPROGRESS)
        lose(watcher, strerror(errno));
    else
        follow(watcher->fd, watcher, EPOLLOUT);
}

static void upgrade(struct watcher *watcher)
{
    char path[200], request[2000];
    int port = options.watch_ports[number_of(watcher) % options.replicas];
    snprintf(path, sizeof path, options.watch_path, job_of(watcher));
    int size = snprintf(request, sizeof request, UPGRADE, path, port, options.origin);
    change(watcher->fd, watcher, EPOLLIN);
    enter(watcher, UPGRADING);
    if (send(watcher->fd, request, (size_t)size, MSG_NOSIGNAL) != size)
        lose(watcher, "does not take the upgrade");
}

static void ask(struct watcher *watcher)
{
    char message[2000];
    int size = snprintf(message, sizeof message, "{\"watch\":\"%s\"}", options.jobs[job_of(watcher)].token);
    enter(watcher, ASKING);
    send_frame(watcher, TEXT, message, (size_t)size);
}

// Returns how many bytes the answer to the upgrade has, 0 when it is not all there.
static size_t take_upgrade(struct watcher *watcher, const unsigned char *data, size_t size)
{
    const char *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end)
        return 0;
    if (!memmem(data, size, " 101 ", 5)) {
        complain("upgrade: %.*s", (int)(size < 200 ? size : 200), (const char *)data);
        lose(watcher, "is not upgraded");
        return 0;
    }
    enter(watcher, options.protocol == SOCKETIO ? ENTERING : options.protocol == HEADWAY ? OPEN : WATCHING);
    return (size_t)(end - (const char *)data) + 4;
}

static bool begins(const char *text, size_t size, const char *with)
{
    return size >= strlen(with) && memcmp(text, with, strlen(with)) == 0;
}

static bool take_socketio(struct watcher *watcher, const char *text, size_t size)
{
    if (begins(text, size, "0{"))
        send_frame(watcher, TEXT, "40", 2);
    else if (begins(text, size, "40"))
        enter(watcher, WATCHING);
    else if (size == 1 && text[0] == '2')
        send_frame(watcher, TEXT, "3", 1);
    else
        return false;
    return true;
}

static void take_text(struct watcher *watcher, const char *text, size_t size)
{
    if (options.protocol == SOCKETIO && take_socketio(watcher, text, size))
        return;
    if (begins(text, size, "{\"error\""))
        complain("told: %.*s", (int)(size < 200 ? size : 200), text);
    if (watcher->stage == ASKING && begins(text, size, "{\"job\""))
        enter(watcher, WATCHING);
    const char *sent = memmem(text, size, "T=", 2);
    if (!sent || number_of(watcher) >= options.watchers)
        return;
    if (latency_count < MOST_LATENCIES)
        latencies_us[latency_count++] = (uint32_t)((now_ns() - strtoull(sent + 2, NULL, 10)) / 1000);
    delivered_count++;
}

static void lose_closed(struct watcher *watcher, const char *payload, size_t size)
{
    const unsigned char *code = (const unsigned char *)payload;
    if (size >= 2)
        complain("closed with %d: %.*s", code[0] << 8 | code[1], (int)size - 2, payload + 2);
    lose(watcher, "was closed");
}

// Takes one frame; returns its size, 0 when it is not all there.
static size_t take_frame(struct watcher *watcher, const unsigned char *data, size_t size)
{
    struct frame frame;
    size_t used = read_frame(data, size, &frame);
    if (!used)
        return 0;
    switch (frame.opcode) {
    case TEXT: take_text(watcher, frame.payload, frame.size); break;
    case PING: send_frame(watcher, PONG, frame.payload, frame.size); break;
    case CLOSE: lose_closed(watcher, frame.payload, frame.size); break;
    case PONG: break;
    }
    return used;
}

static void take(struct watcher *watcher, const unsigned char *data, size_t size)
{
    size_t taken = 0, used = 0;
    do {
        used = watcher->stage == UPGRADING ? take_upgrade(watcher, data + taken, size - taken)
                                           : take_frame(watcher, data + taken, size - taken);
        taken += used;
    } while (used && watcher->stage != CLOSED);
    if (watcher->stage == CLOSED)
        return;
    watcher->rest_size = size - taken;
    if (watcher->rest_size) {
        watcher->rest = realloc(watcher->rest, watcher->rest_size);
        memcpy(watcher->rest, data + taken, watcher->rest_size);
    }
}

void on_watcher(struct watcher *watcher, uint32_t events)
{
    static unsigned char buffer[BUFFER];
    if (watcher->stage == CLOSED)
        return;
    if (watcher->stage == CONNECTING) {
        if (events & (EPOLLERR | EPOLLHUP))
            lose(watcher, "is not connected");
        else
            upgrade(watcher);
        return;
    }
    size_t kept = watcher->rest_size;
    if (kept)
        memcpy(buffer, watcher->rest, kept);
    ssize_t size = recv(watcher->fd, buffer + kept, sizeof buffer - kept, 0);
    if (size > 0)
        take(watcher, buffer, kept + (size_t)size);
    else if (size == 0 || errno != EAGAIN)
        lose(watcher, "was cut off");
}

static bool bring(int from, int to, enum stage from_stage, void (*begin)(struct watcher *))
{
    uint64_t deadline = now_ns() + CONNECT_SECONDS * 1000000000ull;
    int next = from, lost_before = lost_count;
    while ((next < to || under_way > 0) && now_ns() < deadline) {
        for (; next < to && under_way < HANDSHAKES_AT_ONCE; next++)
            if (watchers[next].stage == from_stage)
                begin(&watchers[next]);
        wait_for_events(now_ns() + 20000000);
    }
    if (next < to || under_way > 0)
        complain("%d of %d connections were not ready in time", to - next + under_way, to - from);
    return next == to && under_way == 0 && lost_count == lost_before;
}

bool open_watchers(int from, int to)
{
    return bring(from, to, CLOSED, connect_watcher);
}

bool watch_all(int from, int to)
{
    return options.protocol != HEADWAY || bring(from, to, OPEN, ask);
}

void close_watchers(int from, int to)
{
    for (int i = from; i < to; i++)
        if (watchers[i].stage != CLOSED)
            let_go(&watchers[i]);
}

void stop_reading(int from, int to)
{
    for (int i = from; i < to; i++)
        if (watchers[i].stage != CLOSED)
            change(watchers[i].fd, &watchers[i], 0);
}

int watching(void)
{
    return watching_count;
}

int lost_watchers(void)
{
    return lost_count;
}

uint64_t delivered(void)
{
    return delivered_count;
}

void forget_deliveries(void)
{
    delivered_count = latency_count = 0;
}

static int compare(const void *one, const void *other)
{
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
    return (a > b) - (a < b);
}

uint64_t latency_us(double share)
{
    if (!latency_count)
        return 0;
    qsort(latencies_us, latency_count, sizeof latencies_us[0], compare);
    return latencies_us[(uint64_t)((double)(latency_count - 1) * share)];
}
