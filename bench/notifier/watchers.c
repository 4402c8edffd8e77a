// Watchers: clients of WebSockets or event streams that count the reports they receive and record their latencies.
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

enum { BUFFER = 1 << 18, SLOW_CONSUMER_BUFFER = 4096, ETHERNET_SEGMENT = 1460, MAX_LATENCIES = 4000000 };
enum stage {
    CLOSED,
    CONNECTING,
    UPGRADING,    // the request is sent
    JOINING,      // the handshake of Socket.IO or SignalR
    OPEN,
    SUBSCRIBING,  // Headway: the token is sent, and the job's snapshot is expected
    SUBSCRIBED,
};

// The example key of RFC 6455. The response to it is not checked, and limit.c knows no other.
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
static const char STREAM[] = "GET %s HTTP/1.1\r\n"
                             "Host: 127.0.0.1:%d\r\n"
                             "Accept: text/event-stream\r\n"
                             "Origin: %s\r\n\r\n";

struct watcher {
    int fd;
    enum stage stage;
    unsigned char *partial;  // an incomplete frame
    size_t partial_size;
};

static struct watcher watchers[MAX_WATCHERS];
static int handshake_count, subscribed_count, lost_count;
static uint64_t delivered_count, latency_count;
static uint32_t latencies_us[MAX_LATENCIES];

static int number_of(const struct watcher *watcher)
{
    return (int)(watcher - watchers);
}

static int job_of(const struct watcher *watcher)
{
    return number_of(watcher) % options.job_count;
}

static void set_stage(struct watcher *watcher, enum stage stage)
{
    bool was_in_handshake = watcher->stage != CLOSED && watcher->stage != OPEN && watcher->stage != SUBSCRIBED;
    bool is_in_handshake = stage != CLOSED && stage != OPEN && stage != SUBSCRIBED;
    handshake_count += is_in_handshake - was_in_handshake;
    subscribed_count += (stage == SUBSCRIBED) - (watcher->stage == SUBSCRIBED);
    watcher->stage = stage;
}

static void disconnect(struct watcher *watcher)
{
    close(watcher->fd);
    set_stage(watcher, CLOSED);
    free(watcher->partial);
    watcher->partial = NULL;
    watcher->partial_size = 0;
}

static void fail_watcher(struct watcher *watcher, const char *reason)
{
    record_error("watcher %d: %s", number_of(watcher), reason);
    lost_count++;
    disconnect(watcher);
}

static void send_frame(struct watcher *watcher, enum opcode opcode, const char *data, size_t size)
{
    unsigned char frame[MAX_SENT_BYTES];
    size_t length = encode_frame(frame, opcode, data, size);
    if (!length || send(watcher->fd, frame, length, MSG_NOSIGNAL) != (ssize_t)length)
        fail_watcher(watcher, "send buffer is full");
}

static void connect_watcher(struct watcher *watcher)
{
    bool slow = number_of(watcher) >= options.watchers;
    struct linger reset = {1, 0};  // no TIME_WAIT: a run opens and closes thousands of connections
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons((uint16_t)options.watch_ports[number_of(watcher) % options.replicas]);
    watcher->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    set_stage(watcher, CONNECTING);
    setsockopt(watcher->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    setsockopt(watcher->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (slow) {
        setsockopt(watcher->fd, SOL_SOCKET, SO_RCVBUF, &(int){SLOW_CONSUMER_BUFFER}, sizeof(int));
        // As over Ethernet. With loopback's 64 kB segments the kernel would buffer megabytes per connection.
        setsockopt(watcher->fd, IPPROTO_TCP, TCP_MAXSEG, &(int){ETHERNET_SEGMENT}, sizeof(int));
    }
    if (connect(watcher->fd, (struct sockaddr *)&address, sizeof address) != 0 && errno != EINPROGRESS)
        fail_watcher(watcher, strerror(errno));
    else
        epoll_add(watcher->fd, watcher, EPOLLOUT);
}

static void send_request(struct watcher *watcher)
{
    char path[1500], request[2500];
    int port = options.watch_ports[number_of(watcher) % options.replicas];
    snprintf(path, sizeof path, options.watch_path, job_of(watcher), options.connections[number_of(watcher)]);
    const char *format = options.protocol == EVENT_STREAM ? STREAM : UPGRADE;
    int size = snprintf(request, sizeof request, format, path, port, options.origin);
    epoll_modify(watcher->fd, watcher, EPOLLIN);
    set_stage(watcher, UPGRADING);
    if (send(watcher->fd, request, (size_t)size, MSG_NOSIGNAL) != size)
        fail_watcher(watcher, "request was not sent");
}

static void subscribe(struct watcher *watcher)
{
    char message[2000];
    int size = snprintf(message, sizeof message, "{\"watch\":\"%s\"}", options.jobs[job_of(watcher)].token);
    set_stage(watcher, SUBSCRIBING);
    send_frame(watcher, TEXT, message, (size_t)size);
}

static void shake_hands(struct watcher *watcher, const char *protocol)
{
    char message[100];
    int size = snprintf(message, sizeof message, "{\"protocol\":\"%s\",\"version\":1}\x1e", protocol);
    set_stage(watcher, JOINING);
    send_frame(watcher, TEXT, message, (size_t)size);
}

static void join(struct watcher *watcher)
{
    switch (options.protocol) {
    case SOCKETIO: set_stage(watcher, JOINING); break;
    case HEADWAY: set_stage(watcher, OPEN); break;
    case HUB_JSON: shake_hands(watcher, "json"); break;
    case HUB_MESSAGEPACK: shake_hands(watcher, "messagepack"); break;
    case PLAIN:
    case EVENT_STREAM: set_stage(watcher, SUBSCRIBED); break;
    }
}

// Returns the size of the response to the request, or 0 if it is incomplete.
static size_t handle_response(struct watcher *watcher, const unsigned char *data, size_t size)
{
    const char *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end)
        return 0;
    if (!memmem(data, size, options.protocol == EVENT_STREAM ? " 200 " : " 101 ", 5)) {
        record_error("response: %.*s", (int)(size < 200 ? size : 200), (const char *)data);
        fail_watcher(watcher, "request was refused");
        return 0;
    }
    join(watcher);
    return (size_t)(end - (const char *)data) + 4;
}

static bool has_prefix(const char *text, size_t size, const char *prefix)
{
    return size >= strlen(prefix) && memcmp(text, prefix, strlen(prefix)) == 0;
}

static bool handle_socketio(struct watcher *watcher, const char *text, size_t size)
{
    if (has_prefix(text, size, "0{"))
        send_frame(watcher, TEXT, "40", 2);
    else if (has_prefix(text, size, "40"))
        set_stage(watcher, SUBSCRIBED);
    else if (size == 1 && text[0] == '2')
        send_frame(watcher, TEXT, "3", 1);
    else
        return false;
    return true;
}

static void handle_text(struct watcher *watcher, const char *text, size_t size)
{
    if (options.protocol == SOCKETIO && handle_socketio(watcher, text, size))
        return;
    if (has_prefix(text, size, "{\"error\""))
        record_error("error message: %.*s", (int)(size < 200 ? size : 200), text);
    if ((watcher->stage == SUBSCRIBING && has_prefix(text, size, "{\"job\"")) ||
        (watcher->stage == JOINING && has_prefix(text, size, "{}\x1e")))
        set_stage(watcher, SUBSCRIBED);
    const char *sent = memmem(text, size, "T=", 2);
    if (!sent || number_of(watcher) >= options.watchers)
        return;
    if (latency_count < MAX_LATENCIES)
        latencies_us[latency_count++] = (uint32_t)((now_ns() - strtoull(sent + 2, NULL, 10)) / 1000);
    delivered_count++;
}

static void fail_closed(struct watcher *watcher, const char *payload, size_t size)
{
    const unsigned char *code = (const unsigned char *)payload;
    if (size >= 2)
        record_error("closed prefix %d: %.*s", code[0] << 8 | code[1], (int)size - 2, payload + 2);
    fail_watcher(watcher, "server closed the connection");
}

// Handles one frame; returns its size, or 0 if it is incomplete.
static size_t handle_frame(struct watcher *watcher, const unsigned char *data, size_t size)
{
    struct frame frame;
    size_t used = decode_frame(data, size, &frame);
    if (!used)
        return 0;
    switch (frame.opcode) {
    case TEXT:
    case BINARY: handle_text(watcher, frame.payload, frame.size); break;
    case PING: send_frame(watcher, PONG, frame.payload, frame.size); break;
    case CLOSE: fail_closed(watcher, frame.payload, frame.size); break;
    case PONG: break;
    }
    return used;
}

// Handles one line of an event stream: a report is a single line, and sizes of chunks are others.
static size_t handle_line(struct watcher *watcher, const unsigned char *data, size_t size)
{
    const unsigned char *end = memchr(data, '\n', size);
    if (!end)
        return 0;
    handle_text(watcher, (const char *)data, (size_t)(end - data));
    return (size_t)(end - data) + 1;
}

static void handle_data(struct watcher *watcher, const unsigned char *data, size_t size)
{
    size_t (*handle_message)(struct watcher *, const unsigned char *, size_t) =
        options.protocol == EVENT_STREAM ? handle_line : handle_frame;
    size_t handled = 0, used = 0;
    do {
        used = watcher->stage == UPGRADING ? handle_response(watcher, data + handled, size - handled)
                                           : handle_message(watcher, data + handled, size - handled);
        handled += used;
    } while (used && watcher->stage != CLOSED);
    if (watcher->stage == CLOSED)
        return;
    watcher->partial_size = size - handled;
    if (watcher->partial_size) {
        watcher->partial = realloc(watcher->partial, watcher->partial_size);
        memcpy(watcher->partial, data + handled, watcher->partial_size);
    }
}

void on_watcher(struct watcher *watcher, uint32_t events)
{
    static unsigned char buffer[BUFFER];
    if (watcher->stage == CLOSED)
        return;
    if (watcher->stage == CONNECTING) {
        if (events & (EPOLLERR | EPOLLHUP))
            fail_watcher(watcher, "connection failed");
        else
            send_request(watcher);
        return;
    }
    size_t kept = watcher->partial_size;
    if (kept)
        memcpy(buffer, watcher->partial, kept);
    ssize_t size = recv(watcher->fd, buffer + kept, sizeof buffer - kept, 0);
    if (size > 0)
        handle_data(watcher, buffer, kept + (size_t)size);
    else if (size == 0 || errno != EAGAIN)
        fail_watcher(watcher, "connection was lost");
}

static bool run_handshakes(int from, int to, enum stage from_stage, void (*start)(struct watcher *))
{
    uint64_t deadline = now_ns() + CONNECT_TIMEOUT_S * 1000000000ull;
    int next = from, lost_before = lost_count;
    while ((next < to || handshake_count > 0) && now_ns() < deadline) {
        for (; next < to && handshake_count < MAX_CONCURRENT_HANDSHAKES; next++)
            if (watchers[next].stage == from_stage)
                start(&watchers[next]);
        wait_for_events(now_ns() + 20000000);
    }
    if (next < to || handshake_count > 0)
        record_error("%d of %d connections were not ready in time", to - next + handshake_count, to - from);
    return next == to && handshake_count == 0 && lost_count == lost_before;
}

bool open_watchers(int from, int to)
{
    return run_handshakes(from, to, CLOSED, connect_watcher);
}

bool subscribe_watchers(int from, int to)
{
    return options.protocol != HEADWAY || run_handshakes(from, to, OPEN, subscribe);
}

void close_watchers(int from, int to)
{
    for (int i = from; i < to; i++)
        if (watchers[i].stage != CLOSED)
            disconnect(&watchers[i]);
}

void stop_reading(int from, int to)
{
    for (int i = from; i < to; i++)
        if (watchers[i].stage != CLOSED)
            epoll_modify(watchers[i].fd, &watchers[i], 0);
}

int subscribed_watchers(void)
{
    return subscribed_count;
}

int lost_watchers(void)
{
    return lost_count;
}

uint64_t delivered(void)
{
    return delivered_count;
}

void reset_deliveries(void)
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
