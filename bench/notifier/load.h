// Declarations shared by the parts of the load client: options, clock, meter, watchers and reports.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    MAX_WATCHERS = 5000,  // including slow consumers
    MAX_REPLICAS = 4,
    MAX_PROCESSES = 16,
    MAX_REPORTERS = 32,
    MAX_BATCH = 500,
    MAX_SECONDS = 15,        // the longest turn of reports
    CONNECT_TIMEOUT_S = 60,  // for all connections together: Channels takes 6 ms each on a busy machine
    MAX_CONCURRENT_HANDSHAKES = 64,
};

// PLAIN: every message is a report. SOCKETIO: the same over Engine.IO 4. HEADWAY: a token subscribes to a job.
// HUB_JSON, HUB_MESSAGEPACK: as PLAIN, after the handshake of SignalR. EVENT_STREAM: every event is a report.
enum protocol { PLAIN, SOCKETIO, HEADWAY, HUB_JSON, HUB_MESSAGEPACK, EVENT_STREAM };

// A job's report is the concatenation of head, sequence number, middle, send time and tail.
struct job {
    char *token, *head, *middle, *tail;
};

struct processes {
    pid_t ids[MAX_PROCESSES];
    int count;
};

struct options {
    enum protocol protocol;
    int watch_ports[MAX_REPLICAS], replicas, report_port;   // watchers are spread over the ports
    const char *watch_path, *report_path;                   // `%d` stands for the number of the job
    char *connections[MAX_WATCHERS];                        // for a second placeholder in the watchers' path
    const char *origin, *key;                               // the watchers' Origin header; the report key
    int watchers, stuck, reporters, batch;
    int portions;     // in how many portions the watchers connect and subscribe
    int outstanding;  // the most undelivered reports: a server slower than the rate is not flooded
    double rate, seconds, settle_seconds;
    struct job *jobs, *filler;  // the filler is a job with a large report, for slow consumers
    int job_count, filler_reports;
    struct processes server, redis;
};
extern struct options options;

// options.c
void read_options(int count, char **arguments);
_Noreturn void fail(const char *reason);

// meter.c
uint64_t now_ns(void);
uint64_t cpu_ns(const struct processes *processes);
uint64_t resident_bytes(const struct processes *processes);
void record_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
const char *first_error(void);

// load.c: one epoll instance; the pointer is a watcher or, with the lowest bit set, a reporter.
void epoll_add(int fd, void *owner, uint32_t events);
void epoll_modify(int fd, void *owner, uint32_t events);
void wait_for_events(uint64_t until_ns);
int connect_to(int port);

// frames.c
enum { MAX_SENT_BYTES = 4096 };
enum opcode { TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };
struct frame {
    enum opcode opcode;
    const char *payload;
    size_t size;
};
size_t encode_frame(unsigned char *frame, enum opcode opcode, const char *data, size_t size);  // masked; 0 if too long
size_t decode_frame(const unsigned char *data, size_t size, struct frame *frame);              // 0 if incomplete

// watchers.c
struct watcher;
bool open_watchers(int from, int to);       // returns whether all are open; a peer's are also subscribed
bool subscribe_watchers(int from, int to);  // Headway: returns whether all have received their job's snapshot
void close_watchers(int from, int to);
void stop_reading(int from, int to);
void on_watcher(struct watcher *watcher, uint32_t events);
int subscribed_watchers(void);
int lost_watchers(void);
uint64_t delivered(void);
void reset_deliveries(void);
uint64_t latency_us(double share);

// reports.c
struct reporter;
void open_reporters(void);
void close_reporters(void);
void on_reporter(struct reporter *reporter);
void fill(void);              // sends the filler reports
void report(double seconds);  // posts at the configured rate, then waits for deliveries and responses
void wait_seconds(double seconds);
uint64_t reported(void);
uint64_t refused(void);
uint64_t expected_deliveries(void);
double posting_seconds(void);
void reset_reports(void);
