/* Many WebSocket clients in one thread: the far side of the push benchmarks, lean enough to be no part of them.
 *
 *   clients -p PORT [-u PATH] -f HELLOS [-m MARK] [-w INFLIGHT] [-a] [-s BYTES_PER_S] [-r]
 *
 * HELLOS has a line per client: the text that it sends once it is upgraded. A text with MARK is its welcome.
 * What counts as a delivery is every `"seq":N` in a text, and each client checks that its N go 0, 1, 2 ...;
 * a `"t":MICROSECONDS` behind it is when it was produced. -a acknowledges each `"UUID"`. -s reads no more than so
 * many bytes a second (0: none) once welcomed, -r comes back when it was thrown out.
 *
 * Commands, a line each, answered by a line each:
 *   connect N          `ready CONNECTED SECONDS P50_US P99_US MAX_US FAILED` of these N more
 *   expect N MS        looks all the time, so that no server pays for waking us; `got DELIVERIES LEAST_PER_CLIENT
 *                      MOST WRONG CLOSED ACKED` once there are N, or after MS
 *   await N MS         the same, asleep while there is nothing
 *   latency            `latency COUNT P50_US P99_US MAX_US` since this was last asked
 *   reset              `reset`: counts and latencies from 0
 *   closed             `closed COUNT`: thrown out so far
 *   quit
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { IDLE, CONNECTING, UPGRADING, GREETING, OPEN, GONE };

struct client {
    int fd, state, is_connecting;
    unsigned next;
    double began;
    char *held; /* the part of a frame that came so far */
    size_t held_size;
};

#define BUFFER (1 << 20)
#define ACKED_AT_ONCE 100

static struct client *clients;
static char **hellos;
static int hello_count, port, inflight_limit = 200, is_acking, is_coming_back, epoll;
static long bytes_per_s = -1;
static const char *path = "/v1/push", *mark = "\"op\":\"welcome\"";
static int wanted, started, inflight, settled, failed, connected, batch_from;
static double batch_began;
static double *times, *latencies;
static size_t latency_count, latency_room;
static long deliveries, wrong, closed, acked, expected = -1;
static int is_spinning;
static double expect_until;
static char buffer[BUFFER * 2];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double at_share(double *values, size_t count, double share) {
    return count ? values[(size_t)(share * (count - 1) + 0.5)] : 0;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* Leave the core to its other half, the server's maybe, without falling asleep. */
static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    for (int i = 0; i < 100; i++) __builtin_ia32_pause();
#endif
}

static void start(int index, int is_first) {
    struct client *c = &clients[index];
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    /* Ports run out at 28,000 to one address: the server listens on all of loopback. */
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (index / 20000));
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket");
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bytes_per_s >= 0) {
        int small = 4096;
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    }
    c->began = now();
    c->state = CONNECTING;
    c->is_connecting = is_first;
    inflight += is_first;
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) die("connect");
    struct epoll_event event = {.events = EPOLLOUT, .data.u32 = index};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event) < 0) die("epoll_ctl");
}

static void listen_for(int index, unsigned events) {
    struct epoll_event event = {.events = events, .data.u32 = index};
    epoll_ctl(epoll, EPOLL_CTL_MOD, clients[index].fd, &event);
}

static void settle(struct client *c) {
    if (c->is_connecting) {
        c->is_connecting = 0;
        inflight--;
        settled++;
    }
}

static void lose(int index) {
    struct client *c = &clients[index];
    if (c->state < OPEN) failed++;
    else closed++, connected--;
    close(c->fd);
    free(c->held);
    c->held = NULL;
    c->held_size = 0;
    settle(c);
    c->state = GONE;
    if (is_coming_back) start(index, 0);
}

static void put(struct client *c, const char *data, size_t size) {
    if (write(c->fd, data, size) != (ssize_t)size) return; /* the socket is closing: epoll says so */
}

static void put_text(struct client *c, const char *text, size_t size) {
    static const unsigned char key[4] = {0x12, 0x34, 0x56, 0x78};
    static unsigned char out[32768];
    size_t at = 0;
    out[at++] = 0x81;
    if (size < 126) out[at++] = 0x80 | size;
    else out[at++] = 0x80 | 126, out[at++] = size >> 8, out[at++] = size & 255;
    memcpy(out + at, key, 4);
    at += 4;
    for (size_t i = 0; i < size; i++) out[at++] = text[i] ^ key[i & 3];
    put(c, (char *)out, at);
}

static void upgrade(struct client *c) {
    char request[512];
    int size = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
                        path, port,
                        strstr(path, "/v1/push") ? "Sec-WebSocket-Protocol: notifyd.v1\r\n" : "");
    put(c, request, size);
    c->state = UPGRADING;
}

static void note_latency(double us) {
    if (latency_count == latency_room) {
        latency_room = latency_room ? latency_room * 2 : 65536;
        latencies = realloc(latencies, latency_room * sizeof *latencies);
        if (!latencies) die("realloc");
    }
    latencies[latency_count++] = us;
}

static void count(struct client *c, const char *text, size_t size) {
    const char *end = text + size, *at = text;
    double came = now();
    while ((at = memmem(at, end - at, "\"seq\":", 6))) {
        at += 6;
        unsigned number = strtoul(at, (char **)&at, 10);
        if (number != c->next) wrong++;
        c->next = number + 1;
        deliveries++;
        if (end - at > 6 && !memcmp(at, ",\"t\":", 5)) note_latency(came - strtod(at + 5, NULL));
    }
    if (!is_acking) return;
    at = text;
    while ((at = memmem(at, end - at, "\"ack\":[", 7))) {
        at += 7;
        const char *stop = memchr(at, ']', end - at);
        if (!stop) break;
        acked += (stop - at + 1) / 39;
        at = stop;
    }
    at = text;
    while (at && at < end) {
        char ack[64 + 39 * ACKED_AT_ONCE];
        size_t used = sprintf(ack, "{\"op\":\"ack\",\"ids\":[");
        int ids = 0;
        while (ids < ACKED_AT_ONCE && (at = memmem(at, end - at, "\"UUID\":\"", 8))) {
            used += sprintf(ack + used, "%s\"%.36s\"", ids++ ? "," : "", at + 8);
            at += 8;
        }
        if (!ids) break;
        used += sprintf(ack + used, "]}");
        put_text(c, ack, used);
    }
}

static void welcome(struct client *c) {
    c->state = OPEN;
    connected++;
    if (c->is_connecting) times[settled - batch_from] = now() - c->began;
    settle(c);
}

/* Take the frames that are whole; return how many bytes they were, -1 once it is over. */
static long take(int index, char *data, size_t size) {
    struct client *c = &clients[index];
    size_t at = 0;
    if (c->state == UPGRADING) {
        char *end = memmem(data, size, "\r\n\r\n", 4);
        if (!end) return 0;
        if (size < 12 || memcmp(data, "HTTP/1.1 101", 12)) return -1;
        at = end + 4 - data;
        c->state = GREETING;
        put_text(c, hellos[index % hello_count], strlen(hellos[index % hello_count]));
    }
    while (size - at >= 2) {
        unsigned char *head = (unsigned char *)data + at;
        size_t length = head[1] & 127, skip = 2;
        if (length == 126) {
            if (size - at < 4) break;
            length = head[2] << 8 | head[3], skip = 4;
        } else if (length == 127) {
            if (size - at < 10) break;
            length = 0, skip = 10;
            for (int i = 2; i < 10; i++) length = length << 8 | head[i];
        }
        if (size - at < skip + length) break;
        char *text = data + at + skip;
        int opcode = head[0] & 15;
        at += skip + length;
        if (opcode == 8) return -1;
        if (opcode != 1) continue;
        if (c->state == GREETING) {
            if (memmem(text, length, mark, strlen(mark))) welcome(c);
        } else if (length == 1 && *text == '2') {
            put_text(c, "3", 1); /* the ping of Engine.IO */
        } else {
            count(c, text, length);
        }
    }
    return at;
}

static void hear(int index, size_t limit) {
    struct client *c = &clients[index];
    if (c->held_size) memcpy(buffer, c->held, c->held_size);
    ssize_t got = read(c->fd, buffer + c->held_size, limit);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        lose(index);
        return;
    }
    /* A delayed acknowledgement would be sent by a timer on the server's core, in the server's time. */
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof one);
    size_t size = c->held_size + got;
    int before = c->state;
    long taken = take(index, buffer, size);
    if (taken < 0) {
        lose(index);
        return;
    }
    free(c->held);
    c->held = NULL;
    c->held_size = size - taken;
    if (c->held_size > BUFFER) {
        fprintf(stderr, "a frame of more than %d bytes\n", BUFFER);
        exit(1);
    }
    if (c->held_size) {
        c->held = malloc(c->held_size);
        memcpy(c->held, buffer + taken, c->held_size);
    }
    if (before != OPEN && c->state == OPEN && bytes_per_s >= 0) listen_for(index, EPOLLRDHUP);
}

static void see(int index, unsigned events) {
    struct client *c = &clients[index];
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error || events & (EPOLLERR | EPOLLHUP)) {
            lose(index);
            return;
        }
        listen_for(index, EPOLLIN);
        upgrade(c);
    } else if (bytes_per_s >= 0 && c->state == OPEN) {
        lose(index); /* who reads slowly only waits for the end */
    } else {
        hear(index, BUFFER);
    }
}

static void tell_ready(void) {
    size_t good = 0;
    for (int i = batch_from; i < wanted; i++)
        if (times[i - batch_from] > 0) times[good++] = times[i - batch_from];
    double seconds = (now() - batch_began) / 1e6;
    qsort(times, good, sizeof *times, by_size);
    printf("ready %d %.3f %.0f %.0f %.0f %d\n", connected, seconds, at_share(times, good, 0.5),
           at_share(times, good, 0.99), at_share(times, good, 1), failed);
    fflush(stdout);
    batch_from = -1;
}

static void tell_got(void) {
    unsigned least = -1, most = 0;
    for (int i = 0; i < wanted; i++) {
        if (clients[i].next < least) least = clients[i].next;
        if (clients[i].next > most) most = clients[i].next;
    }
    printf("got %ld %u %u %ld %ld %ld\n", deliveries, least, most, wrong, closed, acked);
    fflush(stdout);
    expected = -1;
}

static void obey(char *line) {
    long number = 0, ms = 0;
    if (sscanf(line, "connect %ld", &number) == 1) {
        if (wanted + number > hello_count) {
            fprintf(stderr, "%d hellos for %ld clients\n", hello_count, wanted + number);
            exit(1);
        }
        batch_from = settled = started = wanted;
        wanted += number;
        failed = 0;
        free(times);
        times = calloc(number, sizeof *times);
        batch_began = now();
    } else if (sscanf(line, "expect %ld %ld", &number, &ms) == 2 || sscanf(line, "await %ld %ld", &number, &ms) == 2) {
        is_spinning = *line == 'e';
        expected = number;
        expect_until = now() + ms * 1e3;
    } else if (!strncmp(line, "reset", 5)) {
        deliveries = wrong = acked = 0;
        latency_count = 0;
        for (int i = 0; i < wanted; i++) clients[i].next = 0;
        puts("reset");
    } else if (!strncmp(line, "closed", 6)) {
        printf("closed %ld\n", closed);
    } else if (!strncmp(line, "latency", 7)) {
        qsort(latencies, latency_count, sizeof *latencies, by_size);
        printf("latency %zu %.0f %.0f %.0f\n", latency_count, at_share(latencies, latency_count, 0.5),
               at_share(latencies, latency_count, 0.99), at_share(latencies, latency_count, 1));
        latency_count = 0;
    } else {
        exit(0);
    }
    fflush(stdout);
}

static void read_hellos(const char *name) {
    FILE *file = fopen(name, "r");
    if (!file) die(name);
    char *line = NULL;
    size_t room = 0;
    ssize_t size;
    while ((size = getline(&line, &room, file)) > 0) {
        if (line[size - 1] == '\n') line[size - 1] = 0;
        if (hello_count % 1024 == 0) hellos = realloc(hellos, (hello_count + 1024) * sizeof *hellos);
        hellos[hello_count++] = strdup(line);
    }
    fclose(file);
}

static void drip(void) {
    static double last;
    if (bytes_per_s <= 0 || now() - last < 1e6) return;
    last = now();
    for (int i = 0; i < wanted; i++)
        if (clients[i].state == OPEN) hear(i, bytes_per_s);
}

int main(int argc, char **argv) {
    int option;
    while ((option = getopt(argc, argv, "p:u:f:m:w:as:r")) != -1) {
        if (option == 'p') port = atoi(optarg);
        else if (option == 'u') path = optarg;
        else if (option == 'f') read_hellos(optarg);
        else if (option == 'm') mark = optarg;
        else if (option == 'w') inflight_limit = atoi(optarg);
        else if (option == 'a') is_acking = 1;
        else if (option == 's') bytes_per_s = atol(optarg);
        else if (option == 'r') is_coming_back = 1;
        else return 2;
    }
    clients = calloc(hello_count + 1, sizeof *clients);
    epoll = epoll_create1(0);
    struct epoll_event input = {.events = EPOLLIN, .data.u32 = UINT32_MAX}, events[512];
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &input);
    batch_from = -1;
    char line[4096];
    size_t used = 0;
    for (;;) {
        while (batch_from >= 0 && started < wanted && inflight < inflight_limit) start(started++, 1);
        int count = epoll_wait(epoll, events, 512, expected >= 0 ? (is_spinning ? 0 : 20) : bytes_per_s > 0 ? 20 : -1);
        if (!count && is_spinning) relax();
        for (int i = 0; i < count; i++) {
            if (events[i].data.u32 != UINT32_MAX) {
                see(events[i].data.u32, events[i].events);
                continue;
            }
            ssize_t got = read(0, line + used, sizeof line - used - 1);
            if (got <= 0) return 0;
            used += got;
            line[used] = 0;
            char *end;
            while ((end = strchr(line, '\n'))) {
                *end = 0;
                obey(line);
                used -= end + 1 - line;
                memmove(line, end + 1, used + 1);
            }
        }
        drip();
        if (batch_from >= 0 && settled >= wanted) tell_ready();
        if (expected >= 0 && (now() > expect_until || (deliveries >= expected && (!is_acking || acked >= expected))))
            tell_got();
    }
}
