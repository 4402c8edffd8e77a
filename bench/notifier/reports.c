// Reports: an HTTP client that posts them at a pace, over a few connections that stay open.
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

enum { HEAD = 1024, BODY = 1 << 20, ANSWER = 1 << 18, QUIET_NS = 3000000000u };

struct reporter {
    int fd;        // 0: not open
    bool waiting;  // for an answer
    char *answer;
    size_t answer_size;
};

static struct reporter reporters[MOST_REPORTERS];
static uint64_t sequence, reported_count, refused_count;
static int watchers_per_job;
static double posting;

static void open_reporter(struct reporter *reporter)
{
    reporter->fd = connect_to(options.report_port);
    reporter->waiting = false;
    reporter->answer_size = 0;
    if (!reporter->answer)
        reporter->answer = calloc(1, ANSWER);
    follow(reporter->fd, (void *)((uintptr_t)reporter | 1), EPOLLIN);
}

void open_reporters(void)
{
    watchers_per_job = options.watchers / options.job_count;
    for (int i = 0; i < options.reporters; i++)
        if (!reporters[i].fd)
            open_reporter(&reporters[i]);
}

// A server may close a connection that nothing comes over for seconds; so none stays open while others have their turn.
void close_reporters(void)
{
    for (int i = 0; i < options.reporters; i++) {
        if (reporters[i].fd)
            close(reporters[i].fd);
        reporters[i].fd = 0;
    }
}

static size_t spell(char *to, const struct job *job)
{
    return (size_t)snprintf(to, BODY, "%s%lu%sT=%019lu%s", job->head, (unsigned long)++sequence, job->middle,
                            (unsigned long)now_ns(), job->tail);
}

// Headway takes a list of reports, the others one at a time, on the path of its job.
static void post(struct reporter *reporter, const struct job *jobs, int count, int batch)
{
    static char request[HEAD + BODY], body[BODY];
    char path[200], authorization[200] = "";
    size_t size = 0, job = sequence % (uint64_t)count;
    bool list = options.protocol == HEADWAY;
    for (int i = 0; i < batch; i++) {
        if (list)
            body[size++] = i ? ',' : '[';
        size += spell(body + size, &jobs[sequence % (uint64_t)count]);
    }
    if (list)
        body[size++] = ']';
    if (options.key)
        snprintf(authorization, sizeof authorization, "Authorization: Bearer %s\r\n", options.key);
    snprintf(path, sizeof path, options.report_path, (int)job);
    size_t head = (size_t)snprintf(request, HEAD,
                                   "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%sContent-Type: application/json\r\n"
                                   "Content-Length: %zu\r\n\r\n",
                                   path, options.report_port, authorization, size);
    memcpy(request + head, body, size);
    size += head;
    // Blocks until the kernel has it all, which on loopback it has at once.
    if (send(reporter->fd, request, size, MSG_NOSIGNAL) != (ssize_t)size)
        complain("report: %s", strerror(errno));
    reporter->waiting = true;
    reported_count += (uint64_t)batch;
}

// Tells whether the whole answer is there.
static bool whole(const struct reporter *reporter)
{
    const char *end = memmem(reporter->answer, reporter->answer_size, "\r\n\r\n", 4);
    if (!end)
        return false;
    const char *length = strcasestr(reporter->answer, "\r\ncontent-length:");
    size_t body = length && length < end ? strtoul(length + 17, NULL, 10) : 0;
    return reporter->answer_size >= (size_t)(end - reporter->answer) + 4 + body;
}

static void judge(struct reporter *reporter)
{
    bool good = reporter->answer_size > 12 && reporter->answer[9] == '2';
    if (!good || strstr(reporter->answer, "\"accepted\":false")) {
        refused_count++;
        complain("report: %.200s", reporter->answer);
    }
    reporter->waiting = false;
    reporter->answer_size = 0;
}

void on_reporter(struct reporter *reporter)
{
    ssize_t size = recv(reporter->fd, reporter->answer + reporter->answer_size, ANSWER - 1 - reporter->answer_size,
                        MSG_DONTWAIT);
    if (size > 0) {
        reporter->answer_size += (size_t)size;
        reporter->answer[reporter->answer_size] = 0;
        if (whole(reporter))
            judge(reporter);
    } else if (size == 0 || errno != EAGAIN) {
        if (reporter->waiting) {
            refused_count++;
            complain("report: no answer");
        }
        close(reporter->fd);
        open_reporter(reporter);
    }
}

static struct reporter *idle_reporter(void)
{
    for (int i = 0; i < options.reporters; i++)
        if (!reporters[i].waiting)
            return &reporters[i];
    return NULL;
}

static bool all_answered(void)
{
    for (int i = 0; i < options.reporters; i++)
        if (reporters[i].waiting)
            return false;
    return true;
}

static uint64_t on_their_way(void)
{
    uint64_t expected = expected_deliveries();
    return expected > delivered() ? (expected - delivered()) / (uint64_t)watchers_per_job : 0;
}

// Waits until everything has come, or nothing has for a while.
static void await_deliveries(void)
{
    uint64_t last = now_ns(), before = delivered(), deadline = last + MOST_SECONDS * 1000000000ull;
    while ((delivered() < expected_deliveries() || !all_answered()) && now_ns() < deadline) {
        wait_for_events(now_ns() + 20000000);
        if (delivered() != before) {
            before = delivered();
            last = now_ns();
        } else if (now_ns() - last > QUIET_NS) {
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
        if (reporter && due <= now && on_their_way() < (uint64_t)options.outstanding) {
            post(reporter, options.jobs, options.job_count, options.batch);
            sent++;
        } else {
            uint64_t until = due > now ? due : now + 5000000;
            wait_for_events(until < end ? until : end);
        }
    }
    posting = (double)(now_ns() - begin) / 1e9;
    await_deliveries();
}

// Large reports of the first job, one after the other, each to all that watch it.
void fill(void)
{
    for (int i = 0; i < options.filler_reports; i++) {
        post(&reporters[0], options.filler, 1, 1);
        for (uint64_t deadline = now_ns() + QUIET_NS; reporters[0].waiting && now_ns() < deadline;)
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
    return posting;
}

void forget_reports(void)
{
    reported_count = refused_count = 0;
}
