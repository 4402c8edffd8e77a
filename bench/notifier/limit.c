// The lower bound of the cost of a delivery: a server that does nothing but send(2). It has one epoll instance and
// encodes one frame for all watchers of a job. It has no tokens, records, Redis or limits, and parses only as much HTTP
// as the load client of this benchmark uses.
//
// GET /ws/<job> opens a WebSocket; the body of POST /pub/<job> is sent to the watchers of the job. The only argument is
// the port.
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 1024, DESCRIPTORS = 20000, JOBS = 5000, REQUEST = 1 << 17 };

// The response to the example key of RFC 6455, which the load client always sends.
static const char UPGRADED[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                               "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
static const char ACCEPTED[] = "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n";

struct job {
    int *watchers;  // file descriptors
    int count, capacity;
};

static struct job jobs[JOBS];
static int watched_job[DESCRIPTORS];   // job + 1, or 0
static int index_in_job[DESCRIPTORS];  // index among the watchers of its job
static int epoll_fd;

static void join(int fd, int number)
{
    struct job *job = &jobs[number];
    if (job->count == job->capacity) {
        job->capacity = job->capacity ? 2 * job->capacity : 1;
        job->watchers = realloc(job->watchers, (size_t)job->capacity * sizeof(int));
    }
    watched_job[fd] = number + 1;
    index_in_job[fd] = job->count;
    job->watchers[job->count++] = fd;
}

static void leave(int fd)
{
    if (watched_job[fd]) {
        struct job *job = &jobs[watched_job[fd] - 1];
        int last = job->watchers[--job->count];
        job->watchers[index_in_job[fd]] = last;
        index_in_job[last] = index_in_job[fd];
        watched_job[fd] = 0;
    }
    close(fd);
}

static size_t encode_frame(unsigned char *frame, const char *text, size_t size)
{
    size_t n = 0;
    frame[n++] = 0x81;
    if (size < 126) {
        frame[n++] = (unsigned char)size;
    } else {
        frame[n++] = 126;
        frame[n++] = (unsigned char)(size >> 8);
        frame[n++] = (unsigned char)size;
    }
    memcpy(frame + n, text, size);
    return n + size;
}

static void publish(const struct job *job, const char *text, size_t size)
{
    static unsigned char frame[REQUEST];
    size_t length = encode_frame(frame, text, size);
    for (int i = 0; i < job->count; i++)
        send(job->watchers[i], frame, length, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static int read_job(const char *request)
{
    const char *digits = strpbrk(request, "0123456789");
    int number = digits ? atoi(digits) : 0;
    return number >= 0 && number < JOBS ? number : 0;
}

// One recv(2) returns the whole request: it is small, and loopback does not split what one send(2) was given.
static void serve(int fd)
{
    static char request[REQUEST];
    ssize_t size = recv(fd, request, sizeof request - 1, 0);
    if (size <= 0) {
        leave(fd);
        return;
    }
    request[size] = 0;
    const char *body = strstr(request, "\r\n\r\n");
    if (watched_job[fd] || !body)
        return;
    if (request[0] == 'G') {
        join(fd, read_job(request));
        send(fd, UPGRADED, sizeof UPGRADED - 1, MSG_NOSIGNAL);
    } else {
        publish(&jobs[read_job(request)], body + 4, (size_t)(request + size - body - 4));
        send(fd, ACCEPTED, sizeof ACCEPTED - 1, MSG_NOSIGNAL);
    }
}

static void epoll_add(int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

static void accept_connections(int listener)
{
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        if (fd >= DESCRIPTORS) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        epoll_add(fd);
    }
}

static int listen_on(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    address.sin_port = htons((unsigned short)port);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 1024) != 0) {
        perror("limit");
        exit(1);
    }
    return fd;
}

int main(int count, char **arguments)
{
    static struct epoll_event events[EVENTS];
    if (count != 2)
        return 2;
    int listener = listen_on(atoi(arguments[1]));
    epoll_fd = epoll_create1(0);
    epoll_add(listener);
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd == listener)
                accept_connections(listener);
            else
                serve(events[i].data.fd);
        }
    }
}
