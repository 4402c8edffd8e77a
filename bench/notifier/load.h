// What the parts of the load client share: options, the clock, the meter, watchers and reports.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    MOST_WATCHERS = 5000,  // stuck ones among them
    MOST_REPLICAS = 4,
    MOST_PROCESSES = 16,
    MOST_REPORTERS = 32,
    MOST_BATCH = 500,
    MOST_SECONDS = 15,      // of reports, however many are asked for
    CONNECT_SECONDS = 60,   // for all connections together: Channels takes 6 ms each on a busy machine
    HANDSHAKES_AT_ONCE = 64,
};

// PLAIN: every text message is a report's. SOCKETIO: Engine.IO 4 below it. HEADWAY: a token asks for a job's snapshots.
enum protocol { PLAIN, SOCKETIO, HEADWAY };

// A job's report is head, sequence number, middle, send time and tail, as whoever started this client spells it.
struct job {
    char *token, *head, *middle, *tail;
};

struct processes {
    pid_t ids[MOST_PROCESSES];
    int count;
};

struct options {
    enum protocol protocol;
    int watch_ports[MOST_REPLICAS], replicas, report_port;  // watchers take turns with the ports
    const char *watch_path, *report_path;                   // `%d` is the number of the job
    const char *origin, *key;                               // the page's, and what reports are let in with
    int watchers, stuck, reporters, batch;
    int portions;     // in which the watchers are opened, and are had to watch
    int outstanding;  // reports that may be on their way: who is slower than the pace is not drowned
    double rate, seconds, settle_seconds;
    struct job *jobs, *filler;  // the filler is one job's large report, for what stuck watchers do not take
    int job_count, filler_reports;
    struct processes server, redis;
};
extern struct options options;

// options.c
void read_options(int count, char **words);
_Noreturn void give_up(const char *reason);

// meter.c
uint64_t now_ns(void);
uint64_t cpu_ns(const struct processes *processes);
uint64_t resident_bytes(const struct processes *processes);
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
const char *complaint(void);

// load.c: one epoll for all descriptors; the pointer is a watcher or, with the lowest bit set, a reporter.
void follow(int fd, void *owner, uint32_t events);
void change(int fd, void *owner, uint32_t events);
void wait_for_events(uint64_t until_ns);
int connect_to(int port);

// frames.c
enum { MOST_SENT = 4096 };
enum opcode { TEXT = 1, CLOSE = 8, PING = 9, PONG = 10 };
struct frame {
    enum opcode opcode;
    const char *payload;
    size_t size;
};
size_t make_frame(unsigned char *frame, enum opcode opcode, const char *data, size_t size);  // masked; 0: too long
size_t read_frame(const unsigned char *data, size_t size, struct frame *frame);             // 0: it is not all there

// watchers.c
struct watcher;
bool open_watchers(int from, int to);      // tells whether all are open; a peer's are then watching, too
bool watch_all(int from, int to);          // Headway's: tells whether all have got their job's snapshot
void close_watchers(int from, int to);
void stop_reading(int from, int to);
void on_watcher(struct watcher *watcher, uint32_t events);
int watching(void);                        // how many get reports
int lost_watchers(void);
uint64_t delivered(void);
void forget_deliveries(void);
uint64_t latency_us(double share);

// reports.c
struct reporter;
void open_reporters(void);
void close_reporters(void);
void on_reporter(struct reporter *reporter);
void fill(void);                           // what stuck watchers are to take
void report(double seconds);               // at the pace, and then waits for deliveries and answers
void wait_seconds(double seconds);
uint64_t reported(void);
uint64_t refused(void);
uint64_t expected_deliveries(void);
double posting_seconds(void);
void forget_reports(void);
