/* The bench's own measuring tools, so that the client's cost does not hide the server's.
 *
 * dns_load echo FIRST PORTS                     the floor of the mechanism: answers each datagram of the hook with its nonce
 * dns_load ask ADDRESS PORT COUNT WINDOW RATE START SUFFIX [SUFFIX EVERY]
 *     asks A of n<i>.SUFFIX, i from START, every EVERYth of the second SUFFIX; at most WINDOW unanswered at a time, RATE a second
 *     (0: as fast as the window allows). Prints {"qps", "p50", "p99", "max", "lost", "failed"}, times in microseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int udp(const char *address, int port, int server) {
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), room = 1 << 22;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, address, &to.sin_addr);
    setsockopt(s, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    if ((server ? bind : connect)(s, (struct sockaddr *)&to, sizeof to)) { perror("socket"); exit(1); }
    return s;
}

static _Noreturn void echo(int first, int ports) {
    struct pollfd fds[256];
    char data[65536];
    for (int n = 0; n < ports; n++) fds[n] = (struct pollfd){udp("127.0.0.1", first + n, 1), POLLIN, 0};
    for (;;) {
        poll(fds, ports, -1);
        for (int n = 0; n < ports; n++) {
            struct sockaddr_storage from;
            socklen_t length = sizeof from;
            ssize_t size;
            if (!(fds[n].revents & POLLIN)) continue;
            while ((size = recvfrom(fds[n].fd, data, sizeof data, MSG_DONTWAIT, (void *)&from, &length)) > 0) {
                char *end = memchr(data, ' ', size);
                if (end) sendto(fds[n].fd, data, end - data, 0, (void *)&from, length);
            }
        }
    }
}

static int ascending(const void *a, const void *b) {
    return (*(double *)a > *(double *)b) - (*(double *)a < *(double *)b);
}

static int question(unsigned char *out, int id, long number, const char *suffix) {
    unsigned char *p = out + 12;
    char name[300];
    memset(out, 0, 12);
    out[0] = id >> 8, out[1] = id, out[2] = 1, out[5] = 1;
    snprintf(name, sizeof name, "n%ld.%s", number, suffix);
    for (char *label = strtok(name, "."); label; label = strtok(NULL, ".")) {
        size_t n = strlen(label);
        *p++ = n;
        memcpy(p, label, n);
        p += n;
    }
    memcpy(p, "\0\0\1\0\1", 5);
    return p + 5 - out;
}

static int ask(int argc, char **argv) {
    int s = udp(argv[2], atoi(argv[3]), 0), every = argc > 10 ? atoi(argv[10]) : 0;
    long count = atol(argv[4]), window = atol(argv[5]), start = atol(argv[7]), sent = 0, got = 0, failed = 0, open = 0;
    double rate = atof(argv[6]), *took = malloc(count * sizeof *took), begin = now(), last = begin;
    static double at[65536];
    while (got < count && now() - last < 3e6) {
        unsigned char data[4096];
        while (sent < count && open < window && (!rate || now() >= begin + sent * 1e6 / rate)) {
            int id = sent & 0xffff, second = every && sent % every == 0;
            int size = question(data, id, start + sent, argv[second ? 9 : 8]);
            at[id] = now();
            if (send(s, data, size, 0) < 0) break;
            sent++, open++;
        }
        struct pollfd fd = {s, POLLIN, 0};
        struct timespec wait = {0, rate ? 50000 : 1000000};
        ppoll(&fd, 1, &wait, NULL);
        ssize_t size;
        while ((size = recv(s, data, sizeof data, MSG_DONTWAIT)) > 0) {
            int id = data[0] << 8 | data[1];
            last = now();
            if (!at[id]) continue;
            took[got++] = last - at[id];
            failed += (data[3] & 15) != 0 || !(data[6] | data[7]);
            at[id] = 0;
            open--;
        }
    }
    qsort(took, got, sizeof *took, ascending);
    printf("{\"qps\": %.1f, \"p50\": %.1f, \"p99\": %.1f, \"max\": %.1f, \"lost\": %ld, \"failed\": %ld}\n",
           got / (last - begin) * 1e6, got ? took[got / 2] : 0, got ? took[got * 99 / 100] : 0, got ? took[got - 1] : 0,
           count - got, failed);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 4 && !strcmp(argv[1], "echo")) echo(atoi(argv[2]), atoi(argv[3]));
    if (argc >= 9 && !strcmp(argv[1], "ask")) return ask(argc, argv);
    fprintf(stderr, "usage: see the head of dns_load.c\n");
    return 2;
}
