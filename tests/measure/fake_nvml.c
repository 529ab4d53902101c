/* NVIDIA's management library for tests: says what the file FAKE_NVML says, a line for each question, read anew every
   time. A question without a line is not supported. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

enum { DONE = 0, UNSUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7 };
typedef struct { unsigned pid; unsigned long long bytes; unsigned instance, part; } process;
typedef struct { unsigned pid; unsigned long long at; unsigned sm, memory, encoder, decoder; } sample;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory;
typedef struct { unsigned gpu, memory; } rates;

/* Put the words behind a question's name in words; -1 where it has no line. */
static int words_of(const char *name, char words[16][64]) {
  char line[1024];
  int count = -1;
  FILE *file = fopen(getenv("FAKE_NVML"), "r");
  while (file && fgets(line, sizeof line, file)) {
    char *word = strtok(line, " \n");
    if (!word || strcmp(word, name)) continue;
    for (count = 0; (word = strtok(NULL, " \n")); count++) strcpy(words[count], word);
  }
  if (file) fclose(file);
  return count;
}

static int number(const char *name, unsigned long long *value) {
  char words[16][64];
  if (words_of(name, words) < 1) return UNSUPPORTED;
  *value = strtoull(words[0], NULL, 0);
  return DONE;
}

static int handle(const char *kind, const char *asked, void **gpu) {
  char words[16][64];
  int count = words_of(kind, words);
  for (int i = 0; i < count; i++)
    if (!strcmp(words[i], asked)) return *gpu = strdup(asked), DONE;
  return NOT_FOUND;
}

static int listed(const char *kind, unsigned *count, process *found) {
  char words[16][64];
  int there = words_of(kind, words), room = *count;
  if (there < 0) return UNSUPPORTED;
  *count = there;
  if (there && (!found || room < there)) return TOO_SMALL;
  for (int i = 0; i < there; i++) found[i] = (process){.pid = atoi(words[i]), .bytes = 1};
  return DONE;
}

int nvmlInitWithFlags(unsigned flags) { char words[16][64]; return words_of("broken", words) < 0 ? DONE : 9; }
int nvmlShutdown(void) { return DONE; }
int nvmlDeviceGetHandleByUUID(const char *name, void **gpu) { return handle("uuids", name, gpu); }
int nvmlDeviceGetHandleByPciBusId_v2(const char *name, void **gpu) { return handle("buses", name, gpu); }
int nvmlDeviceGetComputeRunningProcesses_v3(void *gpu, unsigned *n, process *p) { return listed("processes", n, p); }
int nvmlDeviceGetMPSComputeRunningProcesses_v3(void *gpu, unsigned *n, process *p) { return listed("mps", n, p); }
int nvmlDeviceGetCurrentClocksEventReasons(void *gpu, unsigned long long *found) { return number("reasons", found); }

int nvmlDeviceGetUtilizationRates(void *gpu, rates *found) {
  unsigned long long percent = 0;
  int code = number("utilisation", &percent);
  found->gpu = percent;
  return code;
}

int nvmlDeviceGetMemoryInfo_v2(void *gpu, memory *found) { return number("used", &found->used); }

int nvmlDeviceGetProcessUtilization(void *gpu, sample *found, unsigned *count, unsigned long long since) {
  char words[16][64];
  struct timeval now;
  int there = words_of("working", words), room = *count;
  if (there <= 0) return there ? UNSUPPORTED : NOT_FOUND;
  *count = there;
  if (!found || room < there) return TOO_SMALL;
  gettimeofday(&now, NULL);
  for (int i = 0; i < there; i++) {
    sscanf(words[i], "%u:%u", &found[i].pid, &found[i].sm);
    found[i].at = i ? now.tv_sec * 1000000ull + now.tv_usec : 1; /* the first is always stale after the first time */
  }
  return DONE;
}

int nvmlSystemGetDriverVersion(char *text, unsigned room) {
  char words[16][64];
  if (words_of("driver", words) < 1) return UNSUPPORTED;
  strcpy(text, words[0]);
  return DONE;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
  char words[16][64];
  int there = words_of("names", words);
  *count = there < 0 ? 0 : there;
  return DONE;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **gpu) {
  char words[16][64];
  if ((int)index >= words_of("names", words)) return NOT_FOUND;
  return *gpu = strdup(words[index]), DONE;
}

int nvmlDeviceGetName(void *gpu, char *text, unsigned room) { return strcpy(text, gpu), DONE; }

/* Those whose names end in "%" are partitioned; of those that end in "?" it is not known. */
int nvmlDeviceGetMigMode(void *gpu, unsigned *current, unsigned *pending) {
  char last = ((char *)gpu)[strlen(gpu) - 1];
  *current = *pending = last == '%';
  return last == '?' ? UNSUPPORTED : DONE;
}
