// An HTTP client that posts reports at a configured rate over a few persistent connections.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

enum { HEAD_BYTES = 1024, BODY_BYTES = 1 << 20, RESPONSE_BYTES = 1 << 18, QUIET_TIMEOUT_NS = 3000000000u };

struct reporter {
    int fd;        // 0 if not open
    bool pending;  // a request waits for its response
    char *response;
    size_t response_size;
};

static struct reporter reporters[MAX_REPORTERS];
static uint64_t sequence, reported_count, refused_count;
static int watchers_per_job;
static double posting_time_s;

static void open_reporter(struct reporter *reporter)
{
    reporter->fd = connect_to(options.report_port);
    reporter->pending = false;
    reporter->response_size = 0;
    if (!reporter->response)
        reporter->response = calloc(1, RESPONSE_BYTES);
    epoll_add(reporter->fd, (void *)((uintptr_t)reporter | 1), EPOLLIN);
}

void open_reporters(void)
{
    watchers_per_job = options.watchers / options.job_count;
    for (int i = 0; i < options.reporters; i++)
        if (!reporters[i].fd)
            open_reporter(&reporters[i]);
}

// A server may close a connection that is idle for seconds; so none stays open during the turns of other systems.
void close_reporters(void)
{
    for (int i = 0; i < options.reporters; i++) {
        if (reporters[i].fd)
            close(reporters[i].fd);
        reporters[i].fd = 0;
    }
}

static size_t format_report(char *to, const struct job *job)
{
    return (size_t)snprintf(to, BODY_BYTES, "%s%lu%sT=%019lu%s", job->head, (unsigned long)++sequence, job->middle,
                            (unsigned long)now_ns(), job->tail);
}

// Headway accepts a list of reports; the peers accept one report at a time, on the path of its job.
static void post(struct reporter *reporter, const struct job *jobs, int count, int batch)
{
    static char request[HEAD_BYTES + BODY_BYTES], body[BODY_BYTES];
    char path[200], authorization[200] = "";
    size_t size = 0, job = sequence % (uint64_t)count;
    bool list = options.key;  // only Headway takes lists, and has a key
    for (int i = 0; i < batch; i++) {
        if (list)
            body[size++] = i ? ',' : '[';
        size += format_report(body + size, &jobs[sequence % (uint64_t)count]);
    }
    if (list)
        body[size++] = ']';
    if (options.key)
        snprintf(authorization, sizeof authorization, "Authorization: Bearer %s\r\n", options.key);
    snprintf(path, sizeof path, options.report_path, (int)job);
    size_t head = (size_t)snprintf(request, HEAD_BYTES,
                                   "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%sContent-Type: application/json\r\n"
                                   "Content-Length: %zu\r\n\r\n",
                                   path, options.report_port, authorization, size);
    memcpy(request + head, body, size);
    size += head;
    // On loopback the kernel accepts the whole request at once.
    if (send(reporter->fd, request, size, MSG_NOSIGNAL) != (ssize_t)size)
        record_error("report: %s", strerror(errno));
    reporter->pending = true;
    reported_count += (uint64_t)batch;
}

// Returns whether the response is complete.
static bool is_complete(const struct reporter *reporter)
{
    const char *end = memmem(reporter->response, reporter->response_size, "\r\n\r\n", 4);
    if (!end)
        return false;
    const char *length = strcasestr(reporter->response, "\r\ncontent-length:");
    size_t body = length && length < end ? strtoul(length + 17, NULL, 10) : 0;
    return reporter->response_size >= (size_t)(end - reporter->response) + 4 + body;
}

static void check_response(struct reporter *reporter)
{
    bool ok = reporter->response_size > 12 && reporter->response[9] == '2';
    if (!ok || strstr(reporter->response, "\"accepted\":false")) {
        refused_count++;
        record_error("report: %.200s", reporter->response);
    }
    reporter->pending = false;
    reporter->response_size = 0;
}

void on_reporter(struct reporter *reporter)
{
    ssize_t size = recv(reporter->fd, reporter->response + reporter->response_size,
                        RESPONSE_BYTES - 1 - reporter->response_size, MSG_DONTWAIT);
    if (size > 0) {
        reporter->response_size += (size_t)size;
        reporter->response[reporter->response_size] = 0;
        if (is_complete(reporter))
            check_response(reporter);
    } else if (size == 0 || errno != EAGAIN) {
        if (reporter->pending) {
            refused_count++;
            record_error("report: connection closed without a response");
        }
        close(reporter->fd);
        open_reporter(reporter);
    }
}

static struct reporter *idle_reporter(void)
{
    for (int i = 0; i < options.reporters; i++)
        if (!reporters[i].pending)
            return &reporters[i];
    return NULL;
}

static bool none_pending(void)
{
    for (int i = 0; i < options.reporters; i++)
        if (reporters[i].pending)
            return false;
    return true;
}

static uint64_t undelivered_reports(void)
{
    uint64_t expected = expected_deliveries();
    return expected > delivered() ? (expected - delivered()) / (uint64_t)watchers_per_job : 0;
}

// Waits until all deliveries and responses have arrived, or until none has arrived for QUIET_TIMEOUT_NS.
static void await_deliveries(void)
{
    uint64_t last = now_ns(), before = delivered(), deadline = last + MAX_SECONDS * 1000000000ull;
    while ((delivered() < expected_deliveries() || !none_pending()) && now_ns() < deadline) {
        wait_for_events(now_ns() + 20000000);
        if (delivered() != before) {
            before = delivered();
            last = now_ns();
        } else if (now_ns() - last > QUIET_TIMEOUT_NS) {
            return;
        }
    }
}

void report(double seconds)
{
    uint64_t begin = now_ns(), end = begin + (uint64_t)(seconds * 1e9), sent = 0;
    double gap_ns = 1e9 * options.batch / options.rate;
    for (uint64_t now = begin; now < end; now = now_ns()) {
        uint64_t due = begin + (uint64_t)((double)sent * gap_ns);
        struct reporter *reporter = idle_reporter();
        if (reporter && due <= now && undelivered_reports() < (uint64_t)options.outstanding) {
            post(reporter, options.jobs, options.job_count, options.batch);
            sent++;
        } else {
            uint64_t until = due > now ? due : now + 5000000;
            wait_for_events(until < end ? until : end);
        }
    }
    posting_time_s = (double)(now_ns() - begin) / 1e9;
    await_deliveries();
}

// Posts the large reports of the filler job one after the other; each is delivered to all watchers of the first job.
void fill(void)
{
    for (int i = 0; i < options.filler_reports; i++) {
        post(&reporters[0], options.filler, 1, 1);
        for (uint64_t deadline = now_ns() + QUIET_TIMEOUT_NS; reporters[0].pending && now_ns() < deadline;)
            wait_for_events(deadline);
    }
}

void wait_seconds(double seconds)
{
    for (uint64_t until = now_ns() + (uint64_t)(seconds * 1e9); now_ns() < until;)
        wait_for_events(until);
}

uint64_t reported(void)
{
    return reported_count;
}

uint64_t refused(void)
{
    return refused_count;
}

uint64_t expected_deliveries(void)
{
    return reported_count * (uint64_t)watchers_per_job;
}

double posting_seconds(void)
{
    return posting_time_s;
}

void reset_reports(void)
{
    reported_count = refused_count = 0;
}
