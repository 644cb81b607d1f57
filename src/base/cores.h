#ifndef MTH__CORES_H
#define MTH__CORES_H
int mth__core_count(void); /* cores that this process may use, at least 1 */
#endif
